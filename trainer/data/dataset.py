"""The training data of a run: its rows, their batches, and how often they are shown."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from trainer.data.batches import BatchBuilder
from trainer.data.fits import fit
from trainer.data.rows import Rows
from trainer.errors import UsageError
from trainer.families import Family, load_family
from trainer.settings import Settings, steps_per_epoch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """Rows that the loss can use, and their builder."""

    rows: Rows
    """Rows that have what the loss needs, fit into the model, and are not held out."""
    builder: BatchBuilder
    """Of the loss's views."""
    num_steps: int
    """Optimizer steps of the run."""
    steps_per_epoch: int
    """Steps that show every row once."""

    @property
    def epochs(self) -> int:
        """How often rows are shown, the last time perhaps not all of them."""
        return -(-self.num_steps // self.steps_per_epoch)


def open_dataset(
    shards: tuple[str, ...], model: str, revision: str | None, settings: Settings
) -> Dataset:
    """Read the index of the shards; logs how many rows are left out, and why.

    UsageError for shards and models that do not fit each other or the loss.
    """
    loss = settings.loss
    family = open_family(model, revision, settings)
    builder = BatchBuilder(family, loss.views, settings.seed)
    rows, counts = Rows.open(shards).usable(loss.needs, f"loss {loss.name}")
    log.info("%s", counts)
    if settings.held_out:
        rows, held = rows.split(settings.held_out, settings.seed)
        log.info("%d rows are held out, by source image; %d are left", len(held), len(rows))
    if not len(rows):
        raise UsageError("nothing to train on: all rows are held out; lower held_out")
    rows, fits = fit(rows, builder, settings.max_tokens)
    log.info("%s", fits)
    per_epoch = steps_per_epoch(len(rows), settings.batch_size)
    return Dataset(rows, builder, settings.num_steps(len(rows)), per_epoch)


def open_family(model: str, revision: str | None, settings: Settings) -> Family:
    """The model's processor; UsageError where it cannot fill the loss's views."""
    family = load_family(model, revision)
    family.check(settings.loss.views, f"loss {settings.loss.name}")
    return family


def numerics(settings: Settings) -> str:
    """Types that log-probs depend on, for `trainer.model.reference.Fingerprint`."""
    return f"{settings.weights} weights, {settings.compute} products"
