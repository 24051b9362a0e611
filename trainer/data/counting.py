"""Which tokens of an answer a view counts, and how. Knows token ids, not models or texts."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
from numpy.typing import NDArray

from trainer.families import AnswerTokens
from trainer.losses.views import Quantity, Tokens, View

SHARED_RUN = 3
"""Length from which a run of equal tokens counts as shared (CHiP: llava_trainer.py,
`get_seg_weight`: min_match_size)."""


def factors(view: View, answer: AnswerTokens, other: AnswerTokens | None) -> NDArray[np.float32]:
    """What each token of the answer, end-of-turn last, counts for in the view, [A].

    `other` holds the tokens of the answer that the view is `against`.
    """
    counted = _counted(view, answer, other)
    share = max(1, int(counted.sum())) if view.quantity is Quantity.MEAN else 1
    return np.asarray(counted / share, np.float32)


def _counted(view: View, answer: AnswerTokens, other: AnswerTokens | None) -> NDArray[np.bool_]:
    if view.tokens is Tokens.SPANS:
        return answer.marked
    if view.tokens is Tokens.ALL:
        return np.ones(len(answer.ids), bool)
    assert other is not None, f"{view.key} is against {view.against}"
    if view.tokens is Tokens.DIFFERING:
        return differing(answer.ids.tolist(), other.ids.tolist())
    return np.arange(len(answer.ids)) >= first_difference(answer.ids.tolist(), other.ids.tolist())


def first_difference(ids: Sequence[int], other: Sequence[int]) -> int:
    """The first place where two answers differ; 0 where they do not, so that all counts.

    V-DPO sums from there on (llava_dpo/utils.py:get_indexes, used as `diverge_index - 1` in
    log-probs that are shifted by one; its first commits left the differing token itself out).
    """
    pairs = enumerate(zip(ids, other, strict=False))
    return next((place for place, (one, two) in pairs if one != two), 0)


def differing(ids: Sequence[int], other: Sequence[int]) -> NDArray[np.bool_]:
    """Of each token, whether it is outside all runs of `SHARED_RUN` tokens that both answers have.

    The prompt, which both follow, is a shared run: so shared first words count as shared, however
    few they are.
    """
    prompt = [-1] * SHARED_RUN
    # Without `autojunk`: frequent tokens of a long answer are not noise.
    matcher = SequenceMatcher(None, [*prompt, *ids], [*prompt, *other], autojunk=False)
    found = np.ones(SHARED_RUN + len(ids), bool)
    for start, _, size in matcher.get_matching_blocks():
        if size >= SHARED_RUN:
            found[start : start + size] = False
    return found[SHARED_RUN:]
