"""Views: which cells there are, what they are called, which columns they ask for."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest

from schemas.records import Pair
from trainer.losses import ICVCO
from trainer.losses.views import Answer, Images, Quantity, Tokens, View, columns


def test_cells_that_cannot_be_filled_are_refused():
    with pytest.raises(ValueError, match="set anchor to chosen or rejected"):
        View(Images.BOTH, Answer.CHOSEN)
    with pytest.raises(ValueError, match="set anchor to chosen or rejected"):
        View(Images.BOTH, Answer.CHOSEN, anchor=Images.CROP)
    with pytest.raises(ValueError, match="leave anchor out"):
        View(Images.NONE, Answer.CHOSEN, anchor=Images.CHOSEN)
    with pytest.raises(ValueError, match="name another answer"):
        View(Images.CHOSEN, Answer.REJECTED, Tokens.DIFFERING)
    with pytest.raises(ValueError, match="name another answer"):
        View(Images.CHOSEN, Answer.CHOSEN, Tokens.DIFFERING, against=Answer.CHOSEN)
    with pytest.raises(ValueError, match="the others none"):
        View(Images.CHOSEN, Answer.CHOSEN, against=Answer.REJECTED)


def test_keys_tell_all_views_apart_and_do_not_change():
    anchors = (None, Images.CHOSEN, Images.REJECTED)
    views = []
    for fields in product(Images, Answer, Tokens, Quantity, anchors, (None, *Answer)):
        try:
            views.append(View(*fields))
        except ValueError:
            continue
    of_tokens = 2 * 3 + 2 * 3 * 2  # of an answer; two kinds of them are against one of two others
    assert len(views) == (5 + 2) * of_tokens * 3
    assert len({view.key for view in views}) == len(set(views)) == len(views)
    # Reference files hold these as column names.
    assert View(Images.CHOSEN, Answer.REJECTED).key == "chosen/rejected"
    both = View(Images.BOTH, Answer.COUNTERFACTUAL, anchor=Images.REJECTED)
    assert both.key == "both-rejected/counterfactual"
    masked = View(Images.REJECTED, Answer.CHOSEN, Tokens.SPANS)
    assert masked.key == "rejected/chosen-masked"
    assert View(Images.NONE, Answer.CHOSEN, quantity=Quantity.MEAN).key == "none/chosen-average"


def test_columns_are_those_of_pairs():
    fields = {field.name for field in dataclasses.fields(Pair)}
    assert columns(ICVCO().views) <= fields
    assert columns([View(Images.NONE, Answer.CHOSEN)]) == {"prompt", "chosen"}
    noised = View(Images.NOISED, Answer.CHOSEN, Tokens.DIFFERING, against=Answer.REJECTED)
    assert columns([noised]) == {"prompt", "chosen", "rejected", "chosen_image"}
    wrong = View(Images.NONE, Answer.REJECTED, Tokens.SPANS)
    assert columns([wrong]) == {"prompt", "rejected", "rejected_spans"}
    assert columns([View(Images.CROP, Answer.CHOSEN)]) == {"prompt", "chosen", "chosen_image"}
