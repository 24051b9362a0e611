"""The reference's log-probs: from the policy without adapters, from a second model or a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from schemas.files import Folder
from trainer.data.batches import Batch, BatchBuilder
from trainer.data.rows import Rows
from trainer.errors import UsageError
from trainer.families import Family
from trainer.losses import LogProbs, PreferenceLoss
from trainer.losses.views import DRAWN, View, of_log_probs

if TYPE_CHECKING:
    from peft import PeftModel

Forward = Callable[[Batch], LogProbs]
"""A batch to its table: a `ViewLogProbs`, wrapped or not."""

_FACTS = b"nearmiss_reference"
_SCHEMA = pa.schema(
    [
        ("pair_id", pa.string()),
        ("row", pa.string()),
        ("view", pa.string()),
        ("draw", pa.string()),
        ("log_prob", pa.float32()),
    ]
)
_AGAIN = "make the file again with `python -m trainer precompute`"


def frozen(forward: Forward) -> Forward:
    """The reference is a second, frozen model."""

    def reference(batch: Batch) -> LogProbs:
        with torch.no_grad():
            return forward(batch)

    return reference


def adapters_off(forward: Forward, policy: PeftModel) -> Forward:
    """The reference is the policy without its adapters: no second model.

    `forward` must run that policy. With split weights, pass the wrapped module and run the policy
    first: FSDP records in its first forward which parameters are trainable.
    """

    def reference(batch: Batch) -> LogProbs:
        with torch.no_grad(), policy.disable_adapter():
            return forward(batch)

    return reference


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """All that a reference log-prob depends on except the row: digests, compared one by one."""

    model: str
    """Content id of the reference's weights and configuration."""
    tokenizer: str
    """Content id of the vocabulary and rules."""
    template: str
    """Content id of what the chat template writes, and of our own sentences."""
    processor: str
    """Content id of the image processor's settings."""
    numerics: str
    """Types of weights and products: "bfloat16 weights, bfloat16 products"."""

    @classmethod
    def of(cls, family: Family, revision: str | None, numerics: str) -> Fingerprint:
        """Of a checkpoint as it is now; reads all its weights, a gigabyte a second or so."""
        return cls(
            model=weights_digest(family.model, revision), numerics=numerics, **family.digests()
        )


def weights_digest(model: str, revision: str | None) -> str:
    """Content id of the weight files and `config.json` of a folder or hub id.

    Of contents, not of names: the same weights under another path are the same.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download  # noqa: PLC0415  for models of the hub

        patterns = ["config.json", "*.safetensors"]
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{model} has no *.safetensors, by which its weights are told apart")
    digest = blake2b(_config(folder), digest_size=16)
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(2**24):
                digest.update(block)
    return digest.hexdigest()


def _config(folder: Path) -> bytes:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    # What transformers notes for itself says nothing about the weights.
    return json.dumps(
        {k: v for k, v in config.items() if k not in ("transformers_version", "_name_or_path")},
        sort_keys=True,
    ).encode()


def check_fits_a_file(loss: PreferenceLoss) -> None:
    """UsageError for a loss that compares distributions: a file holds a number a cell."""
    if loss.views - of_log_probs(loss.views):
        raise UsageError(
            f"loss {loss.name} compares distributions over the vocabulary, and a reference file "
            "holds sums of log-probs; train without --reference, the reference then runs beside"
        )


def precompute(
    rows: Rows, builder: BatchBuilder, forward: Forward, *, epochs: int, micro_batch: int
) -> Iterator[pa.Table]:
    """The rows' reference log-probs in the views of `builder`, some rows at a time.

    Views that show a crop or both images depend on what is drawn, so they come once an epoch; the
    others once.
    """
    reference = frozen(forward)
    for epoch in range(epochs):
        build = builder if epoch == 0 else _of_drawn(builder)
        if not build.views:
            return
        for first in range(0, len(rows), micro_batch):
            some = [rows[n] for n in range(first, min(first + micro_batch, len(rows)))]
            batch = build(some, epoch)
            yield _table(batch, reference(batch))


def write_reference_file(
    path: Path, tables: Iterable[pa.Table], *, fingerprint: Fingerprint, seed: int, epochs: int
) -> None:
    """Write what `precompute` gives, atomically; `seed` is the builder's."""
    facts = {"fingerprint": asdict(fingerprint), "seed": seed, "epochs": epochs}
    schema = _SCHEMA.with_metadata({_FACTS: json.dumps(facts)})
    with (
        Folder.at(str(path.parent)).replacing(path.name) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for table in tables:
            writer.write_table(table)


@dataclass(frozen=True)
class ReferenceFile:
    """Reference log-probs from a file: a `Forward` that runs no model.

    A value is used only for the very row, view and draw that it was computed for.
    """

    path: str
    """The file, for messages."""
    table: pa.Table
    """Its rows, those of a pair together."""
    places: dict[str, tuple[int, int]]
    """Where a pair's rows begin, and how many there are."""
    views: frozenset[View]
    """What is read of it."""

    @classmethod
    def open(
        cls,
        path: Path,
        fingerprint: Fingerprint,
        *,
        views: frozenset[View],
        pair_ids: Sequence[str],
        seed: int,
        epochs: int,
    ) -> ReferenceFile:
        """A file that holds these views of these pairs.

        `seed` and `epochs` are the run's. Raises UsageError for a file that was made with another
        model, tokenizer, template, processor or type, naming which; and for one that lacks views,
        pairs, or what this run will draw.
        """
        try:
            table = pq.read_table(path)
            facts = json.loads((table.schema.metadata or {})[_FACTS])
            made = Fingerprint(**facts["fingerprint"])
        except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
            message = " ".join(str(error).split())
            raise UsageError(f"{path} is not a file of reference log-probs: {message}") from error
        changed = [
            field.name
            for field in fields(Fingerprint)
            if getattr(made, field.name) != getattr(fingerprint, field.name)
        ]
        if changed:
            raise UsageError(f"{path} was made with another {', another '.join(changed)}; {_AGAIN}")
        drawn = any(view.images in DRAWN for view in views)
        if drawn and (facts["seed"] != seed or facts["epochs"] < epochs):
            raise UsageError(
                f"{path} was made for seed {facts['seed']} and {facts['epochs']} epochs, this run "
                f"has seed {seed} and {epochs} and draws crops or image orders; {_AGAIN}"
            )
        held = set(pc.unique(table["view"]).to_pylist())
        if missing := sorted(view.key for view in views if view.key not in held):
            raise UsageError(f"{path} lacks the views {', '.join(missing)}; {_AGAIN}")
        table = table.sort_by("pair_id")
        runs = pc.run_end_encode(table["pair_id"].combine_chunks())
        ends = [0, *runs.run_ends.to_pylist()]
        starts = zip(ends[:-1], np.diff(ends).tolist(), strict=True)
        places = dict(zip(runs.values.to_pylist(), starts, strict=True))
        if new := [pair for pair in pair_ids if pair not in places]:
            raise UsageError(f"{path} lacks {len(new)} pairs, {new[0]} for one; {_AGAIN}")
        return cls(str(path), table, places, views)

    def __call__(self, batch: Batch) -> dict[View, Tensor]:
        """The table of a batch; UsageError naming a pair that has changed since."""
        views = [view for view in batch.views if view in self.views]
        rows = [
            self._row(pair, digest, [(view.key, draws.key(view)) for view in views])
            for pair, digest, draws in zip(batch.pair_ids, batch.digests, batch.draws, strict=True)
        ]
        found = torch.tensor(rows, dtype=torch.float32, device=batch.device)
        return dict(zip(views, found.unbind(1), strict=True))

    def _row(self, pair: str, digest: str, cells: Sequence[tuple[str, str]]) -> list[float]:
        """A pair's values for (view, draw)."""
        held = self.table.slice(*self.places.get(pair, (0, 0))).to_pylist()
        if any(line["row"] != digest for line in held):
            raise UsageError(
                f"{self.path}: the texts or images of pair {pair} have changed; {_AGAIN}"
            )
        values = {(line["view"], line["draw"]): line["log_prob"] for line in held}
        for view, draw in cells:
            if (view, draw) not in values:
                what = f"{view} ({draw})" if draw else view
                raise UsageError(f"{self.path} lacks {what} of pair {pair}; {_AGAIN}")
        return [values[cell] for cell in cells]


def _of_drawn(builder: BatchBuilder) -> BatchBuilder:
    """The builder for those views alone that depend on what is drawn."""
    drawn = {view for view in builder.views if view.images in DRAWN}
    return replace(builder, views=frozenset(drawn))


def _table(batch: Batch, log_probs: LogProbs) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [] for name in _SCHEMA.names}
    for view in batch.views:
        columns["pair_id"] += batch.pair_ids
        columns["row"] += batch.digests
        columns["view"] += [view.key] * len(batch)
        columns["draw"] += [draws.key(view) for draws in batch.draws]
        columns["log_prob"].append(log_probs[view].float().cpu().numpy())
    columns["log_prob"] = np.concatenate(columns["log_prob"]).tolist()
    return pa.table(columns, schema=_SCHEMA)
