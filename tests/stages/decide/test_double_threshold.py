import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Image,
    Kind,
    Reason,
    ScoredCandidate,
    Seed,
)
from stages.decide.double_threshold import DEFAULT_LIMITS, DoubleThreshold, Limits


def scored(kind=Kind.OBJECT, **scores):
    image = Image(b"")
    seed = Seed("a", 0, image, 8, 8, "?", "A.", None, (), "test", None)
    contrast = Contrast(kind, "ring", None, "remove the ring")
    return ScoredCandidate(Candidate(seed, contrast, (), image, image, None, {}), scores)


COSINE = st.floats(-1, 1)
LIMIT = st.none() | COSINE
ONE_LIMIT = DoubleThreshold({Kind.OBJECT: Limits(0.7, 0.9)})


@pytest.mark.parametrize(
    ("appearance", "detail", "reason"),
    [
        (0.8, 0.5, None),
        (0.7, 0.9, None),  # on the limits
        (0.69, 0.5, Reason.TOO_DIFFERENT),
        (0.8, 0.91, Reason.TOO_SIMILAR),
        (0.1, 0.99, Reason.TOO_DIFFERENT),  # appearance is judged first
    ],
)
def test_both_thresholds(appearance, detail, reason):
    record = scored(appearance=appearance, detail=detail)
    outcome = ONE_LIMIT.process_one(record)
    if reason is None:
        assert outcome == [record]
    else:
        assert outcome.reason == reason


def test_a_drop_names_value_and_limit():
    drop = ONE_LIMIT.process_one(scored(appearance=0.42, detail=0.5))
    assert drop.detail == "appearance 0.4200, at least 0.7 for object"
    drop = ONE_LIMIT.process_one(scored(appearance=0.9, detail=0.95))
    assert drop.detail == "detail 0.9500, at most 0.9 for object"


@pytest.mark.parametrize("kind", [k for k in Kind if k is not Kind.OBJECT])
def test_kinds_without_limits_pass_whatever_their_scores(kind):
    record = scored(kind, appearance=-1.0, detail=math.nan)
    assert ONE_LIMIT.process_one(record) == [record]


def test_mirrored_and_cropped_images_are_exempt_by_default():
    assert set(DEFAULT_LIMITS) == {Kind.OBJECT, Kind.ATTRIBUTE, Kind.COUNT}
    outcome = DoubleThreshold().process_one(scored(Kind.OBJECT, appearance=1.0, detail=1.0))
    assert isinstance(outcome, Drop)
    assert outcome.reason == Reason.TOO_SIMILAR


def test_an_open_side_needs_no_score():
    stage = DoubleThreshold({Kind.OBJECT: Limits(max_detail=0.9)})
    assert isinstance(stage.process_one(scored(detail=0.95)), Drop)
    assert not isinstance(stage.process_one(scored(detail=0.5)), Drop)


@pytest.mark.parametrize("name", ["appearance", "detail"])
def test_nan_and_missing_scores_are_trouble(name):
    good = {"appearance": 0.8, "detail": 0.5}
    with pytest.raises(ValueError, match=f'"{name}" is NaN'):
        ONE_LIMIT.process_one(scored(**{**good, name: math.nan}))
    del good[name]
    (left,) = good
    with pytest.raises(ValueError, match=rf'no score "{name}".*\[\'{left}\'\]'):
        ONE_LIMIT.process_one(scored(**good))


@given(COSINE, COSINE, LIMIT, LIMIT, st.tuples(COSINE, COSINE))
def test_loosening_never_drops_more(appearance, detail, least, most, looser):
    lower, higher = looser
    record = scored(appearance=appearance, detail=detail)
    tight = Limits(least, most)
    loose = replace(
        tight,
        min_appearance=None if least is None else min(least, lower),
        max_detail=None if most is None else max(most, higher),
    )
    kept = {
        limits: not isinstance(DoubleThreshold({Kind.OBJECT: limits}).process_one(record), Drop)
        for limits in (tight, loose)
    }
    assert kept[loose] or not kept[tight]
    # The verdict says just what the scores say.
    wanted = (least is None or appearance >= least) and (most is None or detail <= most)
    assert kept[tight] == wanted


def test_limits_come_from_a_recipe():
    adapter = TypeAdapter(DoubleThreshold)
    stage = adapter.validate_python({"limits": {"count": {"max_detail": 0.5}}})
    assert stage.limits == {Kind.COUNT: Limits(None, 0.5)}
    for wrong in ({"colour": {}}, {"count": {"min_detail": 0.5}}, {"count": {"max_detail": 7}}):
        with pytest.raises(ValidationError):
            adapter.validate_python({"limits": wrong})
