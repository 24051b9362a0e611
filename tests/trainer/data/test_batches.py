"""What is drawn for a row, and that it moves images, sentences, answers and spans together."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

from fakes.pairs import SIZES, a_row
from schemas.ids import row_seed
from schemas.records import Image
from trainer.data.batches import BatchBuilder, decode, row_digest
from trainer.data.draws import draw_crop
from trainer.errors import UsageError
from trainer.families import ANCHORS
from trainer.losses import DPO, ICVCO, MDPO, SFT, SVCO
from trainer.losses.views import Answer, Images, Tokens, View

NONE = View(Images.NONE, Answer.CHOSEN)
ALL_OF_ICVCO = ICVCO().views


def builder(checkpoint, name="qwen3-vl", views=ALL_OF_ICVCO, **more):
    return BatchBuilder(checkpoint(name).family, frozenset(views), 3, **more)


def test_a_crop_keeps_1_to_20_percent_anywhere_and_is_drawn_once_an_epoch():
    boxes = [draw_crop(row_seed(0, f"pair-{n}", "crop", 0), (640, 480)) for n in range(500)]
    shares = np.array([(b.right - b.left) * (b.bottom - b.top) / (640 * 480) for b in boxes])
    ratios = np.array([(b.right - b.left) / (b.bottom - b.top) for b in boxes])
    assert 0.0095 < shares.min() < 0.02
    assert 0.19 < shares.max() < 0.205
    assert abs(shares.mean() - 0.105) < 0.01
    assert 0.72 < ratios.min() < ratios.max() < 1.37
    assert abs(np.median(np.log(ratios))) < 0.03
    assert all(0 <= b.left < b.right <= 640 and 0 <= b.top < b.bottom <= 480 for b in boxes)
    assert min(b.left for b in boxes) < 20
    assert max(b.right for b in boxes) > 620
    tall = draw_crop(1, (3, 4000))
    assert 0 <= tall.left < tall.right <= 3


def test_the_crop_that_is_shown_is_the_one_that_is_noted(checkpoint):
    build = builder(checkpoint, "llava-1.5", MDPO().views)
    family = build.family
    first, again, later = (build([a_row(0)], epoch) for epoch in (0, 0, 1))
    crop = first.draws[0].crop
    assert crop == again.draws[0].crop != later.draws[0].crop
    assert len(first.images) == 2
    whole = decode(a_row(0).chosen_image.bytes)
    (wanted,) = family.pixels([whole.crop(crop).resize(whole.size, PIL.Image.Resampling.BICUBIC)])
    values = wanted.tensors["pixel_values"][0]
    assert any((shown == values).all() for shown in first.pixels["pixel_values"])
    assert not any((shown == values).all() for shown in later.pixels["pixel_values"])


def test_both_orders_come_and_move_images_and_sentences_together(checkpoint):
    build = builder(checkpoint)
    family = build.family
    row = a_row(0, rejected_image=a_row(1).rejected_image)  # of another size, to tell them apart
    sizes = {role: SIZES[n] for role, n in (("chosen", 0), ("rejected", 1))}
    own = {k: family.pixels([PIL.Image.new("RGB", s)])[0].num_tokens for k, s in sizes.items()}
    assert own["chosen"] != own["rejected"]
    seen = set()
    for epoch in range(8):
        batch = build([row], epoch)
        chosen_first = batch.draws[0].chosen_first
        seen.add(chosen_first)
        order = ("chosen", "rejected") if chosen_first else ("rejected", "chosen")
        prompts = [p for packed in batch.packed for p, _ in packed.ways]
        both = [p for p in prompts if len(set(p.image.tolist())) == 3]
        assert len(both) == 4
        for prompt in both:
            shown = list(dict.fromkeys(n for n in prompt.image.tolist() if n >= 0))
            lengths = [int((prompt.image == n).sum()) for n in shown]
            assert lengths == [own[role] for role in order]
        # Each answer is read after either sentence, and the cells know which one names which image
        # (test_logprobs holds their values against the plain way).
        read = {
            (sentence_of(family, prompt), answer_of(family, prompt, packed, way))
            for packed in batch.packed
            for prompt, way in packed.ways
            if any(prompt is one for one in both)
        }
        assert read == {(s, a) for s in ANCHORS for a in (row.chosen, row.counterfactual)}
    assert seen == {True, False}


def sentence_of(family, prompt):
    (found,) = [s for s in ANCHORS if s in family.tokenizer.decode(prompt.ids.tolist())]
    return found


def answer_of(family, prompt, packed, way):
    ids = packed.ids[way[len(prompt.ids) :]]
    assert ids[-1] == family.end_of_turn
    return family.tokenizer.decode(ids[:-1].tolist())


def test_the_draw_is_the_rows_own(checkpoint):
    build = builder(checkpoint)
    rows = [a_row(n) for n in range(6)]
    together = build(rows, 2).draws
    assert together == tuple(build([row], 2).draws[0] for row in rows)
    assert len({d.chosen_first for d in together}) == 2
    assert replace(build, seed=4)(rows, 2).draws != together


def test_without_an_image_there_is_neither_placeholder_nor_pixel(checkpoint):
    for name in ("llava-1.5", "llava-onevision", "qwen2.5-vl"):
        build = builder(checkpoint, name, {NONE})
        batch = build([a_row(0), a_row(1)], 0)
        assert batch.images == ()
        assert batch.pixels == {}
        for packed in batch.packed:
            assert packed.images == ()
            assert build.family.processor.image_token_id not in packed.ids


def test_a_mixed_batch_holds_every_image_once(checkpoint):
    views = SVCO().views | MDPO().views
    batch = builder(checkpoint, views=views)([a_row(0), a_row(1)], 0)
    assert len(batch.images) == 2 * 3  # chosen, rejected, crop
    assert sorted(i for p in batch.packed for i in p.images) == list(range(6))
    # OneVision's images are other inputs where they are not alone.
    views = ICVCO().views
    assert len(builder(checkpoint, "llava-onevision", views)([a_row(0)], 0).images) == 4
    assert len(builder(checkpoint, "llava-interleave", views)([a_row(0)], 0).images) == 2


def test_masked_views_count_the_spans_and_averages_divide(checkpoint):
    batch = builder(checkpoint, views=ICVCO().views | SFT().views)([a_row(0)], 0)
    family = checkpoint("qwen3-vl").family
    answer = family.answer(a_row(0).chosen, a_row(0).chosen_spans)
    places = [p.log_probs for p in batch.packed]
    weights = {
        view.key: np.concatenate([p.weights[p.cells == cell] for p in places])
        for cell, view in enumerate(batch.views)
    }
    assert weights["chosen/chosen-masked"].tolist() == [1.0] * int(answer.marked.sum())
    assert weights["both-chosen/chosen"].tolist() == [1.0] * len(answer.ids)
    average = weights["chosen/chosen-average"]
    assert len(average) == len(answer.ids)
    assert average.sum() == pytest.approx(1.0)


def test_a_row_without_spans_reads_nothing_in_masked_views(checkpoint):
    row = a_row(0, chosen_spans=(), counterfactual_spans=())
    views = {v for v in ICVCO().views if v.tokens is Tokens.SPANS}
    batch = builder(checkpoint, views=views)([row], 0)
    assert sum(len(p.log_probs.reads) for p in batch.packed) == 0


def test_batches_travel_between_processes(checkpoint):
    build = pickle.loads(pickle.dumps(builder(checkpoint)))
    batch = pickle.loads(pickle.dumps(build([a_row(0)], 0)))
    moved = batch.to("meta")
    assert {x.device.type for x in moved.pixels.values()} == {"meta"}
    assert len(moved) == 1


def test_rows_that_cannot_be_used_are_named(checkpoint):
    build = builder(checkpoint, views=DPO().views)
    with pytest.raises(
        UsageError, match="pair-0000 cannot be used: its rejected answer is missing"
    ):
        build([a_row(0, rejected=None)], 0)
    with pytest.raises(
        UsageError, match="pair pair-0001 cannot be used: its image of 8 bytes cannot"
    ):
        build([a_row(0), a_row(1, chosen_image=Image(b"nonsense"))], 0)
    with pytest.raises(UsageError, match="1 images has 2 placeholders"):
        build([a_row(0, prompt="Is <|image_pad|> red?")], 0)
    with pytest.raises(UsageError, match="context of the model is 1024; set max_tokens"):
        build([a_row(0, rejected="ring " * 1100)], 0)


def test_a_rows_digest_changes_with_its_texts_and_images():
    digest = row_digest(a_row(0))
    assert digest == row_digest(a_row(0))
    changes = {
        "prompt": "Which colour is the ring?",
        "chosen": "The ring is blue.",
        "rejected": None,
        "counterfactual": "None",
        "chosen_spans": (),
        "counterfactual_spans": (),
        "chosen_image": a_row(1).chosen_image,
        "rejected_image": a_row(1).rejected_image,
    }
    digests = {row_digest(a_row(0, **{name: value})) for name, value in changes.items()}
    assert len(digests | {digest}) == len(changes) + 1
    # None and the word "None" differ.
    assert row_digest(a_row(0, counterfactual=None)) not in digests


def test_images_are_decoded_as_rgb():
    sink = io.BytesIO()
    PIL.Image.new("P", (4, 3)).save(sink, "PNG")
    assert decode(sink.getvalue()).mode == "RGB"
