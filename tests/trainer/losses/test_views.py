"""Views: which cells there are, what they are called, which columns they ask for."""

from __future__ import annotations

import dataclasses

import pytest

from schemas.records import Pair
from trainer.losses import ICVCO
from trainer.losses.views import Answer, Images, View, columns


def test_cells_that_cannot_be_filled_are_refused():
    with pytest.raises(ValueError, match="set anchor to chosen or rejected"):
        View(Images.BOTH, Answer.CHOSEN)
    with pytest.raises(ValueError, match="set anchor to chosen or rejected"):
        View(Images.BOTH, Answer.CHOSEN, anchor=Images.CROP)
    with pytest.raises(ValueError, match="leave anchor out"):
        View(Images.NONE, Answer.CHOSEN, anchor=Images.CHOSEN)
    with pytest.raises(ValueError, match="not rejected"):
        View(Images.CHOSEN, Answer.REJECTED, masked=True)


def test_keys_tell_all_views_apart_and_do_not_change():
    anchors = (None, Images.CHOSEN, Images.REJECTED)
    views = []
    for images in Images:
        for answer in Answer:
            for masked in (False, True):
                for anchor in anchors:
                    for average in (False, True):
                        try:
                            views.append(View(images, answer, masked, anchor, average))
                        except ValueError:
                            continue
    assert len(views) == 4 * 5 * 2 + 2 * 5 * 2
    assert len({view.key for view in views}) == len(set(views)) == len(views)
    # Side-car files hold these as column names.
    assert View(Images.CHOSEN, Answer.REJECTED).key == "chosen/rejected"
    both = View(Images.BOTH, Answer.COUNTERFACTUAL, anchor=Images.REJECTED)
    assert both.key == "both-rejected/counterfactual"
    masked = View(Images.REJECTED, Answer.CHOSEN, masked=True)
    assert masked.key == "rejected/chosen-masked"
    assert View(Images.NONE, Answer.CHOSEN, average=True).key == "none/chosen-average"


def test_columns_are_those_of_pairs():
    fields = {field.name for field in dataclasses.fields(Pair)}
    assert columns(ICVCO().views) <= fields
    assert columns([View(Images.NONE, Answer.CHOSEN)]) == {"prompt", "chosen"}
    assert columns([View(Images.CROP, Answer.CHOSEN)]) == {"prompt", "chosen", "chosen_image"}
