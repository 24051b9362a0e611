import math
import re

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
    Seed,
    Verdict,
    VerifiedCandidate,
)
from stages.decide.selector import Selector


def group(values, name="detail"):
    image = Image(b"")
    seed = Seed("a", 0, image, 8, 8, "?", "A.", None, (), "test", None)
    return [
        VerifiedCandidate(
            Candidate(
                seed,
                Contrast(Kind.OBJECT, f"thing {i}", None, f"remove thing {i}"),
                (),
                image,
                image,
                None,
                {},
            ),
            {name: value},
            Verdict(accepted=True, verifier="test", detail=""),
        )
        for i, value in enumerate(values)
    ]


def kept(outcomes):
    return [i for i, outcome in enumerate(outcomes) if not isinstance(outcome, Drop)]


VALUES = st.lists(st.floats(-1, 1), max_size=8)
SELECTORS = st.builds(
    Selector, order=st.sampled_from(["lowest", "highest"]), keep=st.integers(1, 4)
)


def test_the_least_similar_is_kept_and_the_rest_say_why_not():
    candidates = group([0.91, 0.84, 0.97])
    outcomes = Selector().select(candidates)
    assert outcomes[1] is candidates[1]
    assert outcomes[0] == Drop(Reason.NOT_SELECTED, "rank 2 of 3 by detail: 0.9100 (kept 0.8400)")
    assert outcomes[2] == Drop(Reason.NOT_SELECTED, "rank 3 of 3 by detail: 0.9700 (kept 0.8400)")


def test_highest_and_another_score():
    outcomes = Selector(by="area", order="highest", keep=2).select(group([3, 9, 5, 1], "area"))
    assert kept(outcomes) == [1, 2]
    assert "(kept 5.0000)" in outcomes[3].detail


@pytest.mark.parametrize("order", ["lowest", "highest"])
def test_of_equals_the_first_is_kept(order):
    assert kept(Selector(order=order).select(group([0.5, 0.5, 0.5]))) == [0]


@given(SELECTORS, VALUES)
def test_exactly_keep_are_kept_and_none_is_worse_than_a_drop(selector, values):
    outcomes = selector.select(group(values))
    assert len(outcomes) == len(values)
    chosen = kept(outcomes)
    assert len(chosen) == min(selector.keep, len(values))
    sign = 1 if selector.order == "lowest" else -1
    rest = [sign * v for i, v in enumerate(values) if i not in chosen]
    if rest:
        assert max(sign * values[i] for i in chosen) <= min(rest)


@given(SELECTORS, VALUES)
def test_ranks_are_each_given_once(selector, values):
    drops = [o for o in selector.select(group(values)) if isinstance(o, Drop)]
    ranks = sorted(int(re.match(r"rank (\d+) of", d.detail).group(1)) for d in drops)
    assert ranks == list(range(selector.keep + 1, len(values) + 1))


@given(SELECTORS, st.data())
def test_the_order_of_the_group_matters_only_among_equals(selector, data):
    values = data.draw(VALUES)
    shuffled = data.draw(st.permutations(values))
    first, second = (
        sorted(v[i] for i in kept(selector.select(group(v)))) for v in (values, shuffled)
    )
    assert first == second


def test_missing_and_nan_scores_are_trouble():
    with pytest.raises(ValueError, match=r'no score "clip".*\[\'detail\'\]'):
        Selector(by="clip").select(group([0.5]))
    with pytest.raises(ValueError, match="NaN"):
        Selector().select(group([0.5, math.nan]))


def test_settings_are_checked():
    adapter = TypeAdapter(Selector)
    assert adapter.validate_python({"keep": 3}) == Selector(keep=3)
    for wrong in ({"keep": 0}, {"order": "middle"}, {"take": 1}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
