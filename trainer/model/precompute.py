"""The reference's log-probs of all rows of a run, before it: for `precompute`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from trainer.data.batches import Batch
from trainer.data.dataset import numerics, open_dataset
from trainer.errors import UsageError
from trainer.losses.views import View
from trainer.model.logprobs import shares_prompts
from trainer.model.policy import frozen_module, load_model
from trainer.model.precision import precision
from trainer.model.processes import Processes
from trainer.model.reference import Fingerprint, check_fits_a_file, precompute, write_reference_file
from trainer.settings import Settings


def precompute_reference(
    shards: tuple[str, ...], model: str, revision: str | None, settings: Settings, out: Path
) -> int:
    """Write the reference file of a run with these settings; returns the number of its rows.

    UsageError for a loss without reference, and on several processes: the file is one.
    """
    loss = settings.loss
    if not loss.reference_views:
        raise UsageError(f"loss {loss.name} reads no reference; there is nothing to compute")
    check_fits_a_file(loss)
    processes = Processes.start(settings.machine.device)
    if processes.world > 1:
        raise UsageError("precompute writes one file from one process; start it without a launcher")
    dataset = open_dataset(shards, model, revision, settings)
    loaded = load_model(
        model, revision, weights=settings.weights, attention=settings.machine.attention
    )
    module = frozen_module(loaded, settings, processes)

    def forward(batch: Batch) -> Mapping[View, Tensor]:
        with precision(settings.compute, processes.device):
            table: Mapping[View, Tensor] = module(batch.to(processes.device))
            return table

    builder = replace(
        dataset.builder, views=loss.reference_views, share_prompts=shares_prompts(loaded)
    )
    tables = precompute(
        dataset.rows,
        builder,
        forward,
        epochs=dataset.epochs,
        micro_batch=settings.machine.micro_batch,
    )
    write_reference_file(
        out,
        tables,
        fingerprint=Fingerprint.of(builder.family, revision, numerics(settings)),
        seed=settings.seed,
        epochs=dataset.epochs,
    )
    return len(dataset.rows)
