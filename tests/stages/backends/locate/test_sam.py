import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import SamImageProcessorPil, SamModel, SamProcessor

from fakes.tiny.sam import save_sam, save_sam2
from schemas.geometry import Box
from stages.backends.locate.sam import Sam2Settings, SamSettings
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.base import BackendSettings, Device
from stages.locate.segmenter import SegmenterModel

FLIPS = 1e-3
"""Share of a mask's pixels whose logit may be so near 0 that rounding flips them."""


@pytest.fixture(scope="session")
def sam_folder(tmp_path_factory):
    return save_sam(tmp_path_factory.mktemp("sam"))


@pytest.fixture(scope="session")
def sam2_folder(tmp_path_factory):
    pytest.importorskip("torchvision")
    return save_sam2(tmp_path_factory.mktemp("sam2"))


@pytest.fixture(params=["sam", "sam2"])
def made(request):
    """An opened backend of either generation."""
    folder = request.getfixturevalue(f"{request.param}_folder")
    backend = {"sam": SamSettings, "sam2": Sam2Settings}[request.param](model=str(folder)).load(
        Device()
    )
    yield backend
    backend.close()


def random_image(height, width, seed=0):
    """Blobs of colour: neighbouring pixels are alike, as in a photo."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1)[:height, :width])


IMAGES = [
    random_image(48, 80, 1),
    random_image(100, 60, 2),
    random_image(30, 30, 3),
    random_image(64, 64, 4),
]
BOXES = [
    [Box(2, 3, 30, 40), Box(40, 10, 70, 30), Box(0, 0, 80, 48)],
    [Box(5, 50, 55, 95)],
    [],
    [Box(10, 10, 20, 20), Box(30.5, 12.25, 60, 61)],
]


def share_flipped(one, other):
    assert one.shape == other.shape
    return np.mean(one != other)


def test_masks_have_the_size_of_their_image_and_follow_their_box(made):
    masks = made.segment(IMAGES, BOXES)
    assert [len(own) for own in masks] == [3, 1, 0, 2]
    for image, own in zip(IMAGES, masks, strict=True):
        for mask in own:
            assert mask.dtype == np.bool_
            assert mask.shape == image.shape[:2]
    first, second, _ = masks[0]
    assert (first != second).any()
    assert 0 < first.mean() < 1


def test_neither_the_batch_nor_its_cuts_change_a_mask(made):
    together = made.segment(IMAGES, BOXES)
    made.max_batch, made.max_boxes = 2, 1
    cut = made.segment(IMAGES, BOXES)
    for k, image in enumerate(IMAGES):
        for i, box in enumerate(BOXES[k]):
            ((alone,),) = made.segment([image], [[box]])
            assert share_flipped(together[k][i], alone) <= FLIPS
            assert share_flipped(cut[k][i], alone) <= FLIPS


def test_a_image_is_encoded_once_for_all_its_boxes(made):
    seen = []
    encoder = made._model.vision_encoder
    handle = encoder.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0]))
    made.settings = replace(made.settings, max_batch=3)
    made.segment(IMAGES, BOXES)
    handle.remove()
    assert seen == [3, 1]


def test_sam_gives_what_its_processor_and_model_give(sam_folder):
    backend = SamSettings(model=str(sam_folder)).load(Device())
    masks = backend.segment(IMAGES, BOXES)
    # Its Pillow form: torchvision's differs by a grey level after resizing.
    processor = SamProcessor(SamImageProcessorPil.from_pretrained(sam_folder))
    model = SamModel.from_pretrained(sam_folder)
    for image, boxes, own in zip(IMAGES, BOXES, masks, strict=True):
        for box, mask in zip(boxes, own, strict=True):
            inputs = processor(image, input_boxes=[[list(box)]], return_tensors="pt")
            with torch.inference_mode():
                out = model(
                    pixel_values=inputs["pixel_values"],
                    input_boxes=inputs["input_boxes"].float(),
                    multimask_output=False,
                )
            ((expected,),) = processor.post_process_masks(
                out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
            )
            assert share_flipped(mask, expected[0].numpy()) <= FLIPS


def test_sam2_gives_what_its_processor_and_model_give(sam2_folder):
    from transformers import Sam2Model, Sam2Processor

    backend = Sam2Settings(model=str(sam2_folder)).load(Device())
    # An image of the model's size is not resized, which is where Pillow and torchvision differ.
    image, boxes = IMAGES[3], BOXES[3]
    (masks,) = backend.segment([image], [boxes])
    processor = Sam2Processor.from_pretrained(sam2_folder)
    model = Sam2Model.from_pretrained(sam2_folder)
    inputs = processor(image, input_boxes=[[list(box) for box in boxes]], return_tensors="pt")
    with torch.inference_mode():
        out = model(**inputs.to(torch.float32), multimask_output=False)
    (expected,) = processor.post_process_masks(out.pred_masks, inputs["original_sizes"])
    for mask, other in zip(masks, expected[:, 0].numpy(), strict=True):
        assert share_flipped(mask, other) <= FLIPS


def test_sam2_sees_images_as_its_own_processor_makes_them(sam2_folder):
    from transformers import Sam2ImageProcessor

    backend = Sam2Settings(model=str(sam2_folder)).load(Device())
    theirs = Sam2ImageProcessor.from_pretrained(sam2_folder)
    for image in (*IMAGES, random_image(500, 333)):
        ours = backend._images.stacked([image])[0]
        expected = theirs(image, return_tensors="pt")["pixel_values"][0]
        grey = torch.tensor(theirs.image_std).reshape(3, 1, 1) * 255
        # One grey level and a hair of rounding.
        assert ((ours - expected).abs() * grey).max() <= 1.01


def test_the_video_checkpoints_of_the_hub_are_loaded(tmp_path, sam2_folder):
    folder = save_sam2(tmp_path / "video", video=True)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "sam2_video"
    backend = Sam2Settings(model=str(folder)).load(Device())
    ((mask,),) = backend.segment(IMAGES[:1], [BOXES[0][:1]])
    assert mask.shape == IMAGES[0].shape[:2]
    assert 0 < mask.mean() < 1


def test_half_precision_is_for_the_encoder_alone(made):
    full = made.segment(IMAGES, BOXES)
    made = made.settings.load(Device(dtype="bfloat16"))
    assert made._model.vision_encoder.dtype == torch.bfloat16
    assert made._model.mask_decoder.iou_token.weight.dtype == torch.float32
    assert made._model.prompt_encoder.no_mask_embed.weight.dtype == torch.float32
    for own, half in zip(full, made.segment(IMAGES, BOXES), strict=True):
        for one, other in zip(own, half, strict=True):
            # Random weights put far more pixels near the edge than trained ones do.
            assert share_flipped(one, other) < 0.1


def test_a_box_beyond_the_image_is_clipped(made):
    boxes = [Box(-50, -9, 30, 40), Box(0, 0, 30, 40)]
    ((beyond, inside),) = made.segment(IMAGES[:1], [boxes])
    np.testing.assert_array_equal(beyond, inside)


def test_opening_and_closing(sam_folder):
    backend = SamSettings(model=str(sam_folder))
    again = pickle.loads(pickle.dumps(backend))
    assert again == backend
    model = backend.load(Device())
    assert isinstance(model, SegmenterModel)
    model.close()
    model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))


def test_checkpoints_that_will_not_do(tmp_path, sam_folder, sam2_folder):
    with pytest.raises(CheckpointError, match="no model at"):
        SamSettings(model=str(tmp_path / "none")).load(Device())
    with pytest.raises(CheckpointError, match="type 'sam2'; sam is needed"):
        SamSettings(model=str(sam2_folder)).load(Device())
    with pytest.raises(CheckpointError, match="type 'sam'; sam2 or sam2_video is needed"):
        Sam2Settings(model=str(sam_folder)).load(Device())

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(sam_folder, broken)
    weights = load_file(broken / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 of the weights .*iou_token") as caught:
        SamSettings(model=str(broken)).load(Device())
    assert "\n" not in str(caught.value)

    whole = (sam_folder / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="holds no SamModel"):
        SamSettings(model=str(broken)).load(Device())
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no SamModel"):
        SamSettings(model=str(broken)).load(Device())
    (sam_copy := tmp_path / "copy").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(sam_folder / name, sam_copy)
    with pytest.raises(CheckpointError, match="holds no SamImageProcessor"):
        SamSettings(model=str(sam_copy)).load(Device())


def test_settings():
    for backend in (SamSettings, Sam2Settings):
        adapter = TypeAdapter(backend)
        one = adapter.validate_python({"model": "a/b", "revision": "main", "max_boxes": 3})
        assert isinstance(one, BackendSettings)
        assert one.checkpoints() == (Checkpoint("a/b", "main"),)
        for wrong in ({"modle": "a"}, {"max_batch": 0}, {"name": "other"}):
            with pytest.raises(ValidationError):
                adapter.validate_python(wrong)
