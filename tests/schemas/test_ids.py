from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import content_id, row_seed

parts = st.lists(st.text() | st.binary() | st.integers(), max_size=4)


def test_ids_do_not_change_between_versions():
    # Golden values: a change here changes every pair_id and every random draw ever made.
    assert content_id("a", b"b", 3) == "e5e3aff8f00db391e7ddeb4e71bf8545"
    assert row_seed(7, "seed-1", "cropper") == 26740716478454161


@given(parts, parts)
def test_ids_are_equal_exactly_for_equal_parts(a, b):
    same = [(type(x), x) for x in a] == [(type(x), x) for x in b]
    assert (content_id(*a) == content_id(*b)) == same


@given(st.text(min_size=1))
def test_where_parts_end_matters(text):
    assert content_id(text, "x") != content_id(text + "x")


@given(st.integers(), st.text(), st.text(), st.integers(0, 5))
def test_row_seeds_are_63_bits_and_depend_on_everything(run_seed, seed_id, stage, attempt):
    seed = row_seed(run_seed, seed_id, stage, attempt)
    assert 0 <= seed < 2**63
    assert seed == row_seed(run_seed, seed_id, stage, attempt)
    others = {
        row_seed(run_seed + 1, seed_id, stage, attempt),
        row_seed(run_seed, seed_id + "x", stage, attempt),
        row_seed(run_seed, seed_id, stage + "x", attempt),
        row_seed(run_seed, seed_id, stage, attempt + 1),
    }
    assert seed not in others
    assert len(others) == 4
