"""The model and the rows of an evaluation."""

from __future__ import annotations

from pathlib import Path

from trainer.data.rows import Rows
from trainer.errors import UsageError
from trainer.evaluate.run import Judge
from trainer.families import load_family
from trainer.model.logprobs import ViewLogProbs, shares_prompts
from trainer.model.policy import load_model
from trainer.model.processes import Processes
from trainer.run.merge import base_of, trained_weights
from trainer.run.run_folder import RunFolder


def judge_of(
    model: str | Path, revision: str | None, *, device: str, weights: str, micro_batch: int
) -> Judge:
    """A plain model by name or folder, or, for a Path, the result of a run with its adapter.

    Adapters stay apart, in float32, as in training; merged into bfloat16 weights they lose digits.
    """
    processes = Processes.start(device)
    if processes.world > 1:
        raise UsageError("evaluate asks one model on one process; start it without a launcher")
    adapter = None
    if isinstance(model, Path):
        folder = trained_weights(model)
        base = base_of(folder)
        adapter = folder if base is not None else None
        model, revision = base or (str(folder), None)
    family = load_family(model, revision)
    loaded = load_model(model, revision, weights=weights, attention="sdpa")
    if adapter is not None:
        from peft import PeftModel  # noqa: PLC0415  2 s, for adapters alone

        loaded = PeftModel.from_pretrained(loaded, adapter)
    module = ViewLogProbs(loaded.eval()).to(processes.device)
    return Judge(family, module, processes.device, shares_prompts(loaded), micro_batch)


def rows_for(shards: tuple[str, ...], run: Path | None, limit: int | None) -> Rows:
    """Rows of the shards, only those that a run held out if one is given, at most `limit`."""
    rows = Rows.open(shards)
    if run is not None:
        settings = RunFolder(run).settings()
        if not settings.held_out:
            raise UsageError(f"{run} held nothing out; train with --set held_out=0.1")
        _, rows = rows.split(settings.held_out, settings.seed)
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    if not len(rows):
        raise UsageError("there are no rows to evaluate; give a run with pairs")
    return rows
