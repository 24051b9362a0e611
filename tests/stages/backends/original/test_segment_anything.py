from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from schemas.geometry import Box
from stages.backends.locate.sam import SamSettings
from stages.backends.original.segment_anything import SegmentAnythingSettings
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import BackendSettings, Device

package = pytest.importorskip("segment_anything")

FLIPS = 1e-3
"""Share of a mask's pixels whose logit may be so near 0 that rounding flips them."""


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    from fakes.tiny.segment_anything import save_original_sam

    return save_original_sam(tmp_path_factory.mktemp("original") / "sam_tiny.pth")


@pytest.fixture
def backend(original, monkeypatch):
    from fakes.tiny.segment_anything import build_tiny

    monkeypatch.setitem(package.sam_model_registry, "tiny", build_tiny)
    made = SegmentAnythingSettings(model=str(original), architecture="tiny").load(Device())
    yield made
    made.close()
    made.close()


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    pixels = np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1)[:height, :width])
    pixels.setflags(write=False)
    return pixels


IMAGES = [random_image(48, 80, 1), random_image(100, 60, 2), random_image(30, 30, 3)]
BOXES = [[Box(2, 3, 30, 40), Box(40, 10, 70, 30), Box(0, 0, 80, 48)], [], [Box(5, 5, 30, 25)]]


def test_masks_are_those_of_the_package(backend):
    backend.settings = replace(backend.settings, max_boxes=2)
    masks = backend.segment(IMAGES, BOXES)
    assert [len(own) for own in masks] == [3, 0, 1]
    predictor = backend._predictor
    for image, boxes, own in zip(IMAGES, BOXES, masks, strict=True):
        for box, mask in zip(boxes, own, strict=True):
            predictor.set_image(image)
            expected, _, _ = predictor.predict(box=np.array(box), multimask_output=False)
            assert mask.dtype == np.bool_
            assert mask.shape == image.shape[:2]
            assert np.mean(mask != expected[0]) <= FLIPS
    assert 0 < masks[0][0].mean() < 1
    assert (masks[0][0] != masks[0][1]).any()


def test_the_backend_sam_gives_the_same_masks_for_the_same_weights(backend, original, tmp_path):
    pytest.importorskip("transformers", minversion="5")
    from safetensors.torch import save_file

    from fakes.tiny.sam import save_sam
    from fakes.tiny.segment_anything import in_transformers

    folder = save_sam(tmp_path)
    weights = in_transformers(torch.load(original))
    save_file(
        {k: v.clone() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    ours = SamSettings(model=str(folder)).load(Device())
    theirs = backend.segment(IMAGES, BOXES)
    for one, other in zip(ours.segment(IMAGES, BOXES), theirs, strict=True):
        for mask, expected in zip(one, other, strict=True):
            assert np.mean(mask != expected) <= FLIPS


def test_files_that_will_not_do(original, tmp_path):
    with pytest.raises(CheckpointError, match=r"no file at .*; get it from github\.com"):
        SegmentAnythingSettings(model=str(tmp_path / "none.pth")).load(Device())
    with pytest.raises(CheckpointError, match=r"holds no SAM vit_b .*state_dict") as caught:
        SegmentAnythingSettings(model=str(original), architecture="vit_b").load(Device())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "EOFError|end of file|Ran out of input"), (b"<!DOCTYPE html>\n<p>Sign in</p>\n", ".")],
)
def test_a_page_or_nothing_saved_as_a_checkpoint_is_one_clear_line(tmp_path, content, said):
    pytest.importorskip("segment_anything")
    path = tmp_path / "sam.pth"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=rf"sam.pth holds no SAM vit_h .*: ({said})"
    ) as caught:
        SegmentAnythingSettings(model=str(path)).load(Device())
    assert "\n" not in str(caught.value)


def test_settings():
    adapter = TypeAdapter(SegmentAnythingSettings)
    one = adapter.validate_python({"model": "/a/b.pth", "architecture": "vit_l"})
    assert isinstance(one, BackendSettings)
    assert [str(checkpoint) for checkpoint in one.checkpoints()] == ["/a/b.pth"]
    for wrong in ({"architecture": "vit_x"}, {"max_boxes": 0}, {"modle": "x"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
