"""Edits by a scripted editor that does right, nothing, wrong, too much or somewhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fakes.chat_server import chatting
from fakes.opened import opened
from schemas.ids import row_seed
from schemas.records import Candidate, Drop, Kind, Reason
from stages.edit.editor import Editor, EditorBackend
from stages.edit.registration import Movement
from stages.language.chat import Sampling
from stages.pixels import decode, encode_jpeg
from tests.stages.edit import planted_editor as planted
from tests.stages.edit.planted_editor import GREEN, RED, Planted, is_color, plan, red_region, scene
from tests.stages.language.test_verifier import GOOD

PIXELS, RED_BOX, BLUE_BOX = scene()
ANYWHERE = plan(PIXELS)
IN_REGION = plan(PIXELS, red_region(RED_BOX))


def edited(record, *deeds, **settings):
    (outcome,) = opened(Editor(Planted(list(deeds)), **settings)).process([record])
    return outcome


def inside(box, shape, margin=0):
    mask = np.zeros(shape[:2], bool)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = True
    return mask


@pytest.mark.parametrize("record", [ANYWHERE, IN_REGION], ids=["anywhere", "region"])
@pytest.mark.parametrize(
    "movement",
    [Movement(0, 0, 1, 1), Movement(3.25, -2.5, 1, 1), Movement(-5, 6, 1.006, 1)],
    ids=["still", "shifted", "zoomed"],
)
def test_a_good_edit_changes_its_place_and_nothing_else(record, movement):
    (candidate,) = edited(record, planted.moves_it(movement))
    assert isinstance(candidate, Candidate)
    chosen, rejected = decode(candidate.chosen_image), decode(candidate.rejected_image)
    assert chosen.shape == rejected.shape == PIXELS.shape
    # The original, encoded once more.
    np.testing.assert_array_equal(chosen, decode(encode_jpeg(decode(record.seed.image))))
    disc = inside(RED_BOX, PIXELS.shape)
    assert is_color(rejected, GREEN)[disc].mean() > 0.7  # a disc fills 79 % of its box
    assert not is_color(rejected, RED)[disc].any()
    # Away from the disc not one level of a pixel differs, shift, blur, tint and noise or not.
    away = ~inside(RED_BOX, PIXELS.shape, margin=40)
    np.testing.assert_array_equal(chosen[away], rejected[away])
    (region,) = candidate.regions
    assert region.label == "red disc"
    assert region.box.iou(RED_BOX) > 0.6
    mask = region.mask.to_array()
    true = is_color(PIXELS, RED)
    assert mask[true].mean() > 0.99
    assert (mask & ~inside(RED_BOX, PIXELS.shape, margin=25)).sum() == 0
    assert candidate.counterfactual == "The disc is green."
    assert candidate.params["hallucination"] == "attribute"
    dx, dy = (float(v) for v in candidate.params["moved"].split(" ")[0].split(","))
    assert abs(dx - movement.dx) < 0.2
    assert abs(dy - movement.dy) < 0.2
    assert abs(float(candidate.params["moved"].split("x")[1]) - movement.zoom) < 5e-4
    assert candidate.params["canvas"] == "640x480, 640x448 at 0,16"
    assert candidate.params["attempt"] == "0"
    assert candidate.params["changed_beyond"] == "0.0000"


def test_no_seam_where_the_edit_is_set_in():
    """The tint that the whole edit took on is taken off: the rim of the area looks as before."""
    (candidate,) = edited(ANYWHERE, planted.does_it)
    area = candidate.regions[0].mask.to_array().astype(np.uint8)
    band = cv2.dilate(area, np.ones((5, 5))) - cv2.erode(area, np.ones((9, 9))) > 0
    apart = decode(candidate.rejected_image).astype(int) - decode(candidate.chosen_image)
    assert np.abs(np.median(apart[band], axis=0)).max() <= 1  # the tint was 6, -4, 3


@pytest.mark.parametrize(
    ("record", "deed", "reason", "detail"),
    [
        (ANYWHERE, planted.does_nothing, Reason.NO_CHANGE, "of the image changed, at least"),
        (IN_REGION, planted.does_nothing, Reason.NO_CHANGE, "of the image changed, at least"),
        (IN_REGION, planted.does_the_wrong_thing, Reason.DRIFTED, "changed beyond the red disc"),
        (IN_REGION, planted.does_both, Reason.DRIFTED, "changed beyond the red disc"),
        (ANYWHERE, planted.tints_all, Reason.DRIFTED, "levels, at most 20"),
        (ANYWHERE, planted.paints_anew, Reason.DRIFTED, "the rest of the image is similar by 0."),
        (ANYWHERE, planted.paints_half_anew, Reason.DRIFTED, "changed, at most 50.0%"),
        (IN_REGION, planted.paints_half_anew, Reason.DRIFTED, "changed beyond the red disc"),
        (
            ANYWHERE,
            planted.moves_it(Movement(40, 0, 1, 1)),
            Reason.DRIFTED,
            "moved by 5.00% of its diagonal, at most 3.00%",
        ),
    ],
)
def test_what_went_wrong_is_dropped(record, deed, reason, detail):
    drop = edited(record, deed)
    assert isinstance(drop, Drop)
    assert drop.reason is reason
    assert detail in drop.detail


def test_without_a_region_the_wrong_thing_passes_here():
    """Pixels alone cannot tell; this is what the chat model is asked for."""
    assert isinstance(edited(ANYWHERE, planted.does_the_wrong_thing), list)


def test_settings_move_the_limits():
    assert edited(ANYWHERE, planted.does_it, min_change=0.2).reason is Reason.NO_CHANGE
    assert edited(ANYWHERE, planted.does_it, max_change=0.01).reason is Reason.DRIFTED
    assert isinstance(edited(IN_REGION, planted.does_both, max_outside=0.2), list)
    assert isinstance(edited(IN_REGION, planted.does_both, reach=2.0), list)
    far = planted.moves_it(Movement(40, 0, 1, 1))
    assert isinstance(edited(ANYWHERE, far, max_shift=0.06), list)
    assert isinstance(edited(ANYWHERE, planted.darkens_it), list)
    assert edited(ANYWHERE, planted.darkens_it, visible_delta=40.0).reason is Reason.NO_CHANGE
    assert isinstance(edited(ANYWHERE, planted.tints_all, max_tint=62.0), list)
    assert isinstance(edited(ANYWHERE, planted.paints_anew, min_similarity=0.0), list)
    (wide,) = edited(ANYWHERE, planted.does_it, margin=0.05)
    (narrow,) = edited(ANYWHERE, planted.does_it, margin=0.0)
    assert wide.regions[0].mask.area > 1.5 * narrow.regions[0].mask.area


def test_without_compositing_both_images_are_resampled_alike():
    (candidate,) = edited(ANYWHERE, planted.does_it, composite=False)
    chosen, rejected = decode(candidate.chosen_image), decode(candidate.rejected_image)
    away = ~inside(RED_BOX, PIXELS.shape, margin=40)
    assert not np.array_equal(chosen[away], rejected[away])
    # The original went to 640 columns and back, as the edit did.
    assert 0 < np.abs(chosen.astype(int) - decode(ANYWHERE.seed.image)).mean() < 3


@pytest.mark.parametrize(("height", "width"), [(420, 600), (600, 420), (333, 500), (64, 150)])
def test_any_shape_comes_back_in_its_own_size(height, width):
    pixels, box, _ = scene(3, height, width)
    (candidate,) = edited(plan(pixels, red_region(box)), planted.does_it)
    assert decode(candidate.rejected_image).shape == (height, width, 3)
    assert candidate.regions[0].box.iou(box) > 0.5


# What is never edited.


def test_images_beyond_the_limit_and_instructions_too_long_are_dropped_before_the_model():
    wide = plan(scene(0, 100, 450)[0])
    long = plan(PIXELS, instruction="word " * 21)
    backend = Planted([planted.does_it])
    first, second, third = opened(Editor(backend)).process([wide, long, ANYWHERE])
    assert first == Drop(
        Reason.EXTREME_ASPECT, "the image is 450x100, 4.50 to 1; at most 3 to 1 is edited"
    )
    assert second.reason is Reason.TEXT_TOO_LONG
    assert second.detail == "the instruction takes 21 tokens, the editor reads 20"
    assert second.evidence == long.contrast.instruction
    assert isinstance(third, list)
    assert len(backend.asked) == 1


def test_nothing_to_edit_asks_for_nothing():
    backend = Planted([planted.does_it])
    assert opened(Editor(backend)).process([]) == []
    (drop,) = opened(Editor(backend)).process([plan(scene(0, 100, 450)[0])])
    assert drop.reason is Reason.EXTREME_ASPECT
    assert backend.calls == 0


# Attempts, candidates, checks.


def test_only_rows_that_failed_are_tried_again_with_new_seeds():
    other = plan(scene(5)[0], seed_id="other")
    backend = Planted([planted.does_nothing, planted.does_it])
    # The second image is done at once.
    backend.tries = {
        opened(Editor(backend))._canvases([other])[0].place(decode(other.seed.image)).tobytes(): 1
    }
    first, second = opened(Editor(backend, attempts=4)).process([ANYWHERE, other])
    assert first[0].params["attempt"] == "1"
    assert second[0].params["attempt"] == "0"
    assert [seeds for _, _, seeds in backend.asked] == [
        (row_seed(7, "s", "editor", 0),),
        (row_seed(7, "other", "editor", 0),),
        (row_seed(7, "s", "editor", 1),),
    ]
    assert backend.calls == 2


def test_the_last_drop_counts_the_edits():
    backend = Planted([planted.does_nothing])
    (drop,) = opened(Editor(backend, attempts=2, candidates=3)).process([ANYWHERE])
    assert drop.reason is Reason.NO_CHANGE
    assert drop.detail.endswith("(the last of 6 edits)")
    assert [len(seeds) for _, _, seeds in backend.asked] == [3, 3]
    assert len({seed for _, _, seeds in backend.asked for seed in seeds}) == 6


def test_all_good_candidates_go_on():
    backend = Planted([planted.does_it, planted.does_nothing, planted.does_it])
    (made,) = opened(Editor(backend, candidates=3)).process([ANYWHERE])
    assert [one.params["attempt"] for one in made] == ["0", "2"]


def test_a_row_gets_the_same_edit_in_any_batch():
    records = [ANYWHERE, IN_REGION, plan(scene(5)[0], seed_id="other")]
    together = opened(Editor(Planted([planted.does_it]))).process(records)
    alone = [opened(Editor(Planted([planted.does_it]))).process([record])[0] for record in records]
    assert together == alone


def test_a_chat_model_sends_wrong_edits_back():
    replies = [{**GOOD, "change_made": "no"}, GOOD]
    backend = Planted([planted.does_the_wrong_thing, planted.does_it])
    with chatting(replies, concurrency=1) as (chat, server):
        (made,) = opened(Editor(backend, attempts=3, check=chat)).process([ANYWHERE])
    assert made[0].params["attempt"] == "1"
    assert made[0].params["check"] == "1 of 1 votes for it"
    assert is_color(decode(made[0].rejected_image), GREEN).sum() > 500
    assert len(server.payloads) == 2
    assert len({payload["seed"] for payload in server.payloads}) == 2


def test_what_the_model_said_last_stands_with_the_drop():
    with chatting([{**GOOD, "change_made": "no"}]) as (chat, server):
        (drop,) = opened(Editor(Planted([planted.does_it]), attempts=2, check=chat)).process(
            [ANYWHERE]
        )
    assert drop.reason is Reason.REFUTED
    assert "the change was not made" in drop.detail
    assert "the last of 2 edits" in drop.detail
    assert "The cat is red" in drop.evidence
    assert len(server.payloads) == 2


def test_edits_that_drifted_are_not_shown_to_the_model():
    with chatting([GOOD]) as (chat, server):
        (drop,) = opened(Editor(Planted([planted.paints_anew]), check=chat)).process([ANYWHERE])
    assert drop.reason is Reason.DRIFTED
    assert server.payloads == []


def test_votes_can_be_several():
    replies = [GOOD, {**GOOD, "rest_kept": "no"}, GOOD]
    settings = {"check_votes": 3, "check_sampling": Sampling(temperature=0.7)}
    with chatting(replies, concurrency=1) as (chat, _):
        (made,) = opened(Editor(Planted([planted.does_it]), check=chat, **settings)).process(
            [ANYWHERE]
        )
        assert made[0].params["check"].startswith("2 of 3 votes for it")
        with pytest.raises(ValueError, match="3 votes at temperature 0"):
            opened(Editor(Planted([planted.does_it]), check=chat, check_votes=3))


def test_the_model_belongs_to_the_stage():
    backend = Planted([planted.does_it])
    assert isinstance(backend, EditorBackend)
    assert opened(Editor(backend)).backends() == (backend,)
    with chatting([GOOD]) as (chat, _):
        assert opened(Editor(backend, check=chat)).backends() == (backend, chat)


def test_relations_and_other_kinds_need_no_region():
    (candidate,) = edited(plan(PIXELS, kind=Kind.RELATION), planted.does_it)
    assert candidate.contrast.kind is Kind.RELATION
