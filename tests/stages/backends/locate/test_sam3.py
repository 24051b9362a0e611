"""SAM 3 beside the library's own way: one image, one tag, its own processor."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from pydantic import TypeAdapter, ValidationError

from fakes.tiny.sam import save_sam
from schemas.geometry import Box
from stages.backends.locate.sam3 import Sam3Settings
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.base import Device

pytest.importorskip("torchvision")
from fakes.tiny.sam3 import SIDE, save_sam3
from stages.backends.locate.sam3_model import Sam3Model

PIXELS, SCORE = 1e-3, 1e-5
"""What a batch may differ from single rows, in float32: pixels of a box, and scores."""
FLIPS = 1e-3
"""Share of a mask's pixels whose chance may be so near the threshold that rounding flips them."""


def random_image(height, width, seed=0):
    """Blobs of colour: neighbouring pixels are alike, as in a photo."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1)[:height, :width])


IMAGES = [
    random_image(SIDE, SIDE, 1),
    random_image(100, 60, 2),
    random_image(30, 90, 3),
    random_image(SIDE, SIDE, 4),
]
TAGS = [["dog", "Red Cat", "a table"], ["dog"], [], ["the red dog sits", "cat"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sam3(tmp_path_factory.mktemp("sam3"))


@pytest.fixture(scope="module")
def settings(folder):
    """Lets every query through, so that tests see all instances of all tags."""
    return Sam3Settings(model=str(folder), score_threshold=0)


@pytest.fixture(scope="module")
def made(settings):
    return Sam3Model(settings, Device())


def check_same(one, other):
    assert len(one) == len(other)
    for found, expected in zip(one, other, strict=True):
        ((tag, score),) = found.names.items()
        assert expected.names == {tag: pytest.approx(score, abs=SCORE)}
        assert found.box == pytest.approx(expected.box, abs=PIXELS)
        assert found.mask.shape == expected.mask.shape
        assert np.mean(found.mask != expected.mask) <= FLIPS


@pytest.mark.parametrize("thresholds", [(0.0, 0.5), (0.1, 0.7)])
def test_instances_are_those_of_the_library(folder, settings, thresholds):
    score, mask = thresholds
    ours = Sam3Model(replace(settings, score_threshold=score, mask_threshold=mask), Device())
    model, processor = (
        kind.from_pretrained(folder)
        for kind in (transformers.Sam3Model, transformers.Sam3Processor)
    )
    # Images of the model's size are not resized, which is where Pillow and torchvision differ.
    images, tags = IMAGES[::3], TAGS[::3]
    seen = 0
    for image, own, found in zip(images, tags, ours.detect(images, tags), strict=True):
        for tag in own:
            inputs = processor(images=image, text=tag, return_tensors="pt")
            with torch.inference_mode():
                (theirs,) = processor.post_process_instance_segmentation(
                    model.eval()(**inputs), score, mask, target_sizes=[image.shape[:2]]
                )
            order = theirs["scores"].argsort(descending=True, stable=True)
            mine = [one for one in found if tag in one.names]
            assert len(mine) == len(order)
            for one, k in zip(mine, order.tolist(), strict=True):
                assert one.names[tag] == pytest.approx(float(theirs["scores"][k]), abs=SCORE)
                box = Box(*theirs["boxes"][k].tolist()).clipped(SIDE, SIDE)
                assert one.box == pytest.approx(box, abs=PIXELS)
                assert np.mean(one.mask != theirs["masks"][k].numpy().astype(bool)) <= FLIPS
                seen += 1
    assert seen > 10


def test_masks_have_the_size_of_their_image_and_follow_the_words(made):
    found = made.detect(IMAGES, TAGS)
    for image, own in zip(IMAGES, found, strict=True):
        height, width = image.shape[:2]
        for one in own:
            assert one.mask.dtype == np.bool_
            assert one.mask.shape == (height, width)
            assert one.box == one.box.clipped(width, height)
    dog, cat = (next(one for one in found[0] if tag in one.names) for tag in TAGS[0][:2])
    assert (dog.mask != cat.mask).any()
    assert 0 < dog.mask.mean() < 1


def test_neither_the_batch_nor_its_cuts_change_a_detection(made, settings):
    together = made.detect(IMAGES, TAGS)
    assert [len(own) for own in together] == [36, 12, 0, 24]
    cut = Sam3Model(replace(settings, max_batch=2, max_tags=1), Device()).detect(IMAGES, TAGS)
    for k, image in enumerate(IMAGES):
        check_same(cut[k], together[k])
        alone = [made.detect([image], [[tag]])[0] for tag in TAGS[k]]
        check_same([one for own in alone for one in own], together[k])


def test_an_image_and_a_tag_are_encoded_once(made):
    seen = []
    handles = [
        encoder.register_forward_hook(lambda *_, name=name: seen.append(name))
        for name, encoder in (
            ("image", made._model.vision_encoder),
            ("text", made._model.text_encoder),
        )
    ]
    made.detect(IMAGES, TAGS)
    assert made.detect(IMAGES[:2], [[], []]) == [[], []]
    assert made.detect([], []) == []
    for handle in handles:
        handle.remove()
    assert seen == ["text", "image"]


def test_the_most_confident_instances_are_kept(made, settings):
    few = Sam3Model(replace(settings, max_instances=2), Device()).detect(IMAGES[:1], TAGS[:1])[0]
    every = made.detect(IMAGES[:1], TAGS[:1])[0]
    for tag in TAGS[0]:
        best = sorted((one.names[tag] for one in every if tag in one.names), reverse=True)[:2]
        assert [one.names[tag] for one in few if tag in one.names] == pytest.approx(best)


def test_images_are_seen_as_its_own_processor_makes_them(made, folder):
    theirs = transformers.Sam3ImageProcessor.from_pretrained(folder)
    grey = torch.tensor(theirs.image_std).reshape(3, 1, 1) * 255
    for image in (*IMAGES, random_image(500, 333)):
        expected = theirs(image, return_tensors="pt")["pixel_values"][0]
        # One grey level and a hair of rounding.
        assert ((made._images.stacked([image])[0] - expected).abs() * grey).max() <= 1.01


def test_the_video_checkpoints_of_the_hub_are_loaded(tmp_path, made):
    folder = save_sam3(tmp_path / "video", video=True)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "sam3_video"
    video = Sam3Model(Sam3Settings(model=str(folder), score_threshold=0), Device())
    check_same(video.detect(IMAGES, TAGS)[0], made.detect(IMAGES, TAGS)[0])


def test_half_precision_is_for_the_image_encoder_alone(made, settings):
    full = made.detect(IMAGES[:1], [["dog"]])[0]
    rough = Sam3Model(settings, Device(dtype="bfloat16"))
    assert rough._model.vision_encoder.dtype == torch.bfloat16
    assert rough._model.detr_decoder.dtype == rough._model.text_encoder.dtype == torch.float32
    half = rough.detect(IMAGES[:1], [["dog"]])[0]
    assert [one.names["dog"] for one in half] == pytest.approx(
        [one.names["dog"] for one in full], abs=0.1
    )


def test_a_tag_that_is_too_long_is_refused(made):
    made.detect(IMAGES[:1], [["d" * 30]])
    with pytest.raises(ValueError, match="has 31 tokens; 30 fit into a prompt"):
        made.detect(IMAGES[:1], [["dog", "d" * 31]])


def test_checkpoints_that_will_not_do(tmp_path, folder):
    def error(model):
        with pytest.raises(CheckpointError) as caught:
            Sam3Model(Sam3Settings(model=str(model)), Device())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no model at" in error(tmp_path / "none")
    (tmp_path / "sam").mkdir()
    assert "'sam'; sam3 or sam3_video is needed" in error(save_sam(tmp_path / "sam"))
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").unlink()
    assert "is tokenizer.json there?" in error(bare)


def test_settings():
    adapter = TypeAdapter(Sam3Settings)
    one = adapter.validate_python({"model": "a/b", "revision": "main", "max_tags": 3})
    assert one.checkpoints() == (Checkpoint("a/b", "main"),)
    for wrong in ({"modle": "a"}, {"max_batch": 0}, {"mask_threshold": 1.5}, {"name": "other"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
