"""Outcomes: how one record left the chain, flattened into the columns of a part file.

A part holds every outcome of its shard. The columns are those of `Pair`, nullable, behind `status`,
`reason`, `detail`, `evidence` and `stage`; a drop fills the columns that were known when it left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.arrow import from_row, schema_of, to_row
from schemas.ids import content_id
from schemas.records import (
    Candidate,
    Drop,
    Grounded,
    Image,
    Pair,
    Provenance,
    ScoredCandidate,
    Seed,
    SeedRef,
    Segmented,
    SpannedCandidate,
    Step,
    Tagged,
    VerifiedCandidate,
)
from schemas.texts import AnswerPair, Described, Judged, PlannedEdit, Sampled

PAIR = "pair"
DROP = "drop"

OUTCOME_SCHEMA: pa.Schema = pa.schema(
    [(name, pa.string()) for name in ("status", "reason", "detail", "evidence", "stage")]
    + list(schema_of(Pair))
)
"""Columns of `parts/*.parquet`."""

FlowRecord = (
    SeedRef
    | Seed
    | Tagged
    | Grounded
    | Segmented
    | PlannedEdit
    | Sampled
    | Judged
    | AnswerPair
    | Described
    | Candidate
    | ScoredCandidate
    | VerifiedCandidate
    | SpannedCandidate
)


@dataclass(frozen=True, slots=True)
class Origin:
    """The facts that all rows of one recipe in one run share."""

    recipe: str
    """Recipe name, as in `Pair.recipe`."""
    recipe_digest: str
    """As in `Provenance`."""
    run_seed: int
    """As in `Provenance`."""
    code_version: str
    """As in `Provenance`."""
    schema_version: int
    """As in `Provenance`."""
    steps: tuple[Step, ...]
    """As in `Provenance`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A record that left the chain: through its end (`drop` is None) or early."""

    record: FlowRecord
    """The last record; a `SpannedCandidate` when it is a pair."""
    origin: Origin
    """The chain it went through."""
    drop: Drop | None = None
    """Why it left early."""
    stage: str = ""
    """Name of the stage that dropped it; empty for a pair."""

    @property
    def seed_id(self) -> str:
        """Id of the input row."""
        return seed_of(self.record).seed_id


def seed_of(record: FlowRecord) -> Seed | SeedRef:
    """The input row behind a record."""
    match record:
        case SeedRef() | Seed():
            return record
        case Tagged() | Grounded() | Segmented() | Candidate():
            return record.seed
        case PlannedEdit() | Sampled() | Judged() | AnswerPair() | Described():
            return record.seed
        case ScoredCandidate() | VerifiedCandidate():
            return record.candidate.seed
        case SpannedCandidate():
            return record.verified.candidate.seed


def images_of(record: FlowRecord) -> tuple[Image, ...]:
    """The images that a stage decodes when it takes this record; none before they are read."""
    match record:
        case SeedRef():
            return ()
        case Candidate():
            return (record.chosen_image, record.rejected_image)
        case ScoredCandidate() | VerifiedCandidate():
            return images_of(record.candidate)
        case SpannedCandidate():
            return images_of(record.verified)
    seed = seed_of(record)
    return (seed.image,) if isinstance(seed, Seed) else ()


def outcome_row(outcome: Outcome) -> dict[str, Any]:
    """The outcome as a row of `OUTCOME_SCHEMA`; unknown columns are None."""
    row: dict[str, Any] = dict.fromkeys(OUTCOME_SCHEMA.names)
    drop, origin = outcome.drop, outcome.origin
    row["status"] = PAIR if drop is None else DROP
    if drop is not None:
        row.update(
            reason=str(drop.reason),
            detail=drop.detail,
            evidence=drop.evidence or None,
            stage=outcome.stage,
        )
    row.update(_columns(outcome.record), recipe=origin.recipe)
    params = row.pop("params", [])
    row["provenance"] = {
        **to_row(
            Provenance(
                origin.recipe_digest,
                origin.run_seed,
                origin.schema_version,
                origin.code_version,
                origin.steps,
                {},
            )
        ),
        "params": params,
    }
    if row["rejected_image"] is not None:
        row["pair_id"] = content_id(
            row["seed_id"],
            origin.recipe,
            *(str(value) for value in row["contrast"].values()),
            row["chosen_image"]["bytes"],
            row["rejected_image"]["bytes"],
        )
    return row


def outcome_table(outcomes: Sequence[Outcome]) -> pa.Table:
    """Outcomes as a table of `OUTCOME_SCHEMA`."""
    return pa.Table.from_pylist([outcome_row(o) for o in outcomes], schema=OUTCOME_SCHEMA)


def pair_from_row(row: dict[str, Any]) -> Pair:
    """The `Pair` of an accepted row, of a part or of `data/`.

    A row of schema 2 has no `rejected_spans`; they are None there, as if unknown.
    """
    return from_row(Pair, {"rejected_spans": None, **row})


def _columns(record: FlowRecord) -> dict[str, Any]:
    """The columns of `Pair` that a record knows; each kind of record adds to the one it holds."""
    match record:
        case SeedRef():
            return _seed_columns(record)
        case Seed():
            return {**_seed_columns(record), "chosen_image": to_row(record.image)}
        case Tagged():
            return _columns(record.seed)
        case Grounded():
            return {**_columns(record.seed), "regions": [to_row(r) for r in record.regions]}
        case Segmented():
            return {**_columns(record.seed), "regions": [to_row(record.region)]}
        case PlannedEdit():
            own = to_row(record)
            names = ("contrast", "counterfactual", "regions")
            known = {name: own[name] for name in names}
            return {**_columns(record.seed), **known, "params": _params(record.params)}
        case Sampled() | Judged():
            return _columns(record.seed)
        case AnswerPair():
            return {**_columns(record.seed), **to_row(record.texts)}
        case Described():
            known = {
                "contrast": to_row(record.contrast),
                "counterfactual": record.counterfactual,
                "params": _params(record.params),
            }
            return {**_columns(record.pair), **known}
        case Candidate():
            own = to_row(record)
            del own["seed"], own["written"]
            return {**_seed_columns(record.seed), **to_row(record.texts), **own}
        case ScoredCandidate():
            return {**_columns(record.candidate), "scores": to_row(record)["scores"]}
        case VerifiedCandidate():
            own = to_row(record)
            return {
                **_columns(record.candidate),
                "scores": own["scores"],
                "verdict": own["verdict"],
            }
        case SpannedCandidate(rejected_spans=rejected):
            return {
                **_columns(record.verified),
                "chosen_spans": [list(s) for s in record.chosen_spans],
                "counterfactual_spans": [list(s) for s in record.counterfactual_spans],
                "rejected_spans": None if rejected is None else [list(s) for s in rejected],
            }


def _params(params: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in params.items()]


def _seed_columns(seed: Seed | SeedRef) -> dict[str, Any]:
    names = ("seed_id", "prompt", "chosen", "rejected", "source", "license")
    return {name: getattr(seed, name) for name in names}
