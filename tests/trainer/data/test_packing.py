"""Token trees: by hand, and for any readings the same as rows of their own."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.packing import Reading, pack
from trainer.families import PromptTokens
from trainer.model.logprobs import _tree_mask


def reading(prompt, answer, *cells, images=None):
    """A reading by lists; `images` are the numbers of images by token, -1 for text."""
    ids = np.array(prompt, np.int64)
    shown = np.array(images or [-1] * len(prompt), np.int64)
    factors = tuple((cell, np.array(weights, np.float32)) for cell, *weights in cells)
    return Reading(PromptTokens(ids, shown), np.array(answer, np.int64), factors)


def mask(packed, width=None):
    return _tree_mask(packed, width or max(len(p.ids) for p in packed), "cpu")[:, 0].numpy()


def test_two_answers_after_one_prompt():
    first = reading([1, 2, 3], [7, 8], (0, 1, 1))
    second = reading([1, 2, 3], [7, 9, 5], (1, 0, 1, 1))
    (packed,) = pack([first, second], share=True)
    # The prompt and the answers' first word are there once.
    assert packed.ids.tolist() == [1, 2, 3, 7, 8, 9, 5]
    assert packed.depth.tolist() == [0, 1, 2, 3, 4, 4, 5]
    assert packed.segment.tolist() == [0, 0, 0, 0, 1, 2, 2]
    assert packed.sees.tolist() == [[True, False, False], [True, True, False], [True, False, True]]
    assert packed.branches
    found = mask([packed])[0].astype(int).tolist()
    assert found[4] == [1, 1, 1, 1, 1, 0, 0]
    assert found[6] == [1, 1, 1, 1, 0, 1, 1]
    # Read where the token before stands: 7 after 3 (once), 8 after 7, 9 after 7, 5 after 9.
    reads = list(
        zip(packed.log_probs.reads.tolist(), packed.log_probs.targets.tolist(), strict=True)
    )
    assert reads == [(2, 7), (3, 8), (3, 9), (5, 5)]
    assert packed.log_probs.cells.tolist() == [0, 0, 1, 1]
    assert [reads[t] for t in packed.log_probs.terms] == [(2, 7), (3, 8), (3, 9), (5, 5)]


def test_without_sharing_every_reading_is_a_plain_row():
    readings = [reading([1, 2], [3], (0, 1)), reading([1, 2], [4], (1, 1))]
    packed = pack(readings, share=False)
    assert [p.ids.tolist() for p in packed] == [[1, 2, 3], [1, 2, 4]]
    assert not any(p.branches for p in packed)


def test_the_same_token_for_another_image_is_another_token():
    seen = [-1, 0, 0, -1]
    other = [-1, 1, 1, -1]
    readings = [
        reading([5, 6, 6, 7], [1], (0, 1), images=seen),
        reading([5, 6, 6, 7], [1], (1, 1), images=other),
        reading([5, 6, 6, 6, 6, 7], [1], (2, 1), images=[-1, 0, 0, 1, 1, -1]),
    ]
    one, two = pack(readings, share=True)
    # What begins with image 0 is together; the image is there once, the second one after it.
    assert one.ids.tolist() == [5, 6, 6, 7, 1, 6, 6, 7, 1]
    assert one.images == (0, 1)
    assert two.images == (1,)
    assert not two.branches


def test_padding_sees_itself_alone():
    plain = pack([reading([1, 2], [3], (0, 1))], share=True)
    tree = pack([reading([1], [2, 3], (1, 1, 1)), reading([1], [4, 4], (2, 1, 1))], share=True)
    found = mask([*plain, *tree])
    assert found[0].astype(int).tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert found.any(-1).all()


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=5)


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=6))
@settings(max_examples=200)
def test_any_way_through_the_tree_is_its_reading(ways):
    """A token sees exactly what stands before it in its own reading, at its own depth."""
    readings = [reading(p, a, (n, *[1] * len(a))) for n, (p, a) in enumerate(ways)]
    (packed,) = pack(readings, share=True)
    sees = mask([packed])[0]
    reads = list(
        zip(packed.log_probs.reads.tolist(), packed.log_probs.targets.tolist(), strict=True)
    )
    for number, ((prompt, answer), (_, way)) in enumerate(zip(ways, packed.ways, strict=True)):
        assert packed.ids[way].tolist() == prompt + answer
        for depth, place in enumerate(way):
            assert np.flatnonzero(sees[place]).tolist() == sorted(way[: depth + 1].tolist())
            assert packed.depth[place] == depth
        terms = packed.log_probs.terms[packed.log_probs.cells == number]
        before = way[len(prompt) - 1 : -1].tolist()
        assert [reads[t] for t in terms] == list(zip(before, answer, strict=True))
    assert len(set(reads)) == len(reads)
    assert len(packed.ids) <= sum(len(p) + len(a) for p, a in ways)
