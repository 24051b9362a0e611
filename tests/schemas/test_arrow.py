from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.arrow import from_bytes, from_table, schema_of, to_bytes, to_row, to_table
from schemas.outcomes import (
    DROP,
    OUTCOME_SCHEMA,
    PAIR,
    Origin,
    Outcome,
    outcome_row,
    outcome_table,
    pair_from_row,
)
from schemas.records import Pair, Reason, ScoredCandidate, SeedRef, SpannedCandidate, Step
from tests.schemas import strategies as own

ORIGIN = Origin("flip", "digest", 3, "0.1.0", 1, (Step("loader", "{}"),))


@given(st.lists(own.seed_refs, max_size=3))
def test_seed_refs_survive(records):
    assert from_bytes(to_bytes(records, SeedRef), SeedRef) == records


@given(st.lists(own.spanned, max_size=2))
def test_the_deepest_record_survives(records):
    assert from_bytes(to_bytes(records, SpannedCandidate), SpannedCandidate) == records


def test_an_all_null_column_keeps_its_type():
    schema = to_table([], SeedRef).schema
    assert schema.field("license").type == pa.string()
    assert schema.field("defect").type.field("reason").type == pa.string()


def test_the_image_struct_is_the_one_hugging_face_recognises():
    kind = schema_of(Pair).field("chosen_image").type
    assert kind == pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_a_table_of_another_record_is_refused():
    with pytest.raises(ValueError, match="does not hold ScoredCandidate records: missing columns"):
        from_table(to_table([], SeedRef), ScoredCandidate)


def test_what_has_no_arrow_form_is_refused():
    @dataclass
    class Odd:
        value: complex

    with pytest.raises(TypeError, match="no Arrow form for <class 'complex'>"):
        schema_of(Odd)


@given(own.spanned)
def test_an_accepted_outcome_is_a_pair(record):
    (row,) = outcome_table([Outcome(record, ORIGIN)]).to_pylist()
    assert (row["status"], row["reason"], row["stage"]) == (PAIR, None, None)
    pair = pair_from_row(row)
    candidate = record.verified.candidate
    assert pair.chosen_image == candidate.chosen_image
    assert pair.rejected_image == candidate.rejected_image
    assert pair.contrast == candidate.contrast
    assert pair.regions == candidate.regions
    assert pair.scores == record.verified.scores
    assert pair.chosen_spans == record.chosen_spans
    assert pair.rejected_spans == record.rejected_spans
    assert pair.provenance.params == candidate.params
    assert pair.provenance.steps == ORIGIN.steps
    assert (pair.recipe, pair.seed_id) == ("flip", candidate.seed.seed_id)
    texts = candidate.written or candidate.seed
    assert (pair.prompt, pair.chosen, pair.rejected) == (texts.prompt, texts.chosen, texts.rejected)


@given(own.spanned, st.binary(min_size=1, max_size=4))
def test_pair_ids_follow_the_content(record, more):
    pair_id = outcome_row(Outcome(record, ORIGIN))["pair_id"]
    assert pair_id == outcome_row(Outcome(record, ORIGIN))["pair_id"]
    candidate = record.verified.candidate
    image = replace(candidate.rejected_image, bytes=candidate.rejected_image.bytes + more)
    other = replace(
        record,
        verified=replace(record.verified, candidate=replace(candidate, rejected_image=image)),
    )
    assert outcome_row(Outcome(other, ORIGIN))["pair_id"] != pair_id
    elsewhere = replace(ORIGIN, recipe="crop")
    assert outcome_row(Outcome(record, elsewhere))["pair_id"] != pair_id


@given(own.seed_refs | own.seeds | own.candidates | own.scored | own.verified, own.drops)
def test_a_drop_keeps_what_was_known(record, drop):
    (row,) = outcome_table([Outcome(record, ORIGIN, drop, "stage-x")]).to_pylist()
    assert (row["status"], row["reason"], row["stage"]) == (DROP, drop.reason, "stage-x")
    assert row["detail"] == drop.detail
    assert row["recipe"] == "flip"
    assert row["prompt"] is not None
    known = to_row(record)
    if "scores" in known:
        assert row["scores"] == known["scores"]
        assert row["rejected_image"] == known["candidate"]["rejected_image"]
    elif "rejected_image" in known:
        assert row["contrast"] == known["contrast"]
    else:
        assert row["rejected_image"] is None
        assert row["pair_id"] is None


def test_reasons_and_columns_are_a_published_format():
    # Renaming one of these breaks files that people have; raise SCHEMA_VERSION and say so.
    assert OUTCOME_SCHEMA.names == [
        "status", "reason", "detail", "evidence", "stage", "pair_id", "seed_id", "chosen_image",
        "rejected_image", "prompt", "chosen", "rejected", "counterfactual", "chosen_spans",
        "counterfactual_spans", "rejected_spans", "recipe", "contrast", "regions", "scores",
        "verdict", "provenance", "source", "license",
    ]  # fmt: skip
    assert all(reason.value == reason.name.lower() for reason in Reason)
