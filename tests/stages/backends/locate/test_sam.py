import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import SamImageProcessorPil, SamModel, SamProcessor

from fakes.tiny.sam import save_sam, save_sam2
from schemas.geometry import Box
from stages.backends.locate.sam import Sam2Settings, SamSettings
from stages.base import Device
from tests.stages.backends.contract import random_image

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
    made = made.settings.load(Device(dtype="bfloat16"))
    assert made._model.vision_encoder.dtype == torch.bfloat16
    assert made._model.mask_decoder.iou_token.weight.dtype == torch.float32
    assert made._model.prompt_encoder.no_mask_embed.weight.dtype == torch.float32


def test_a_box_beyond_the_image_is_clipped(made):
    boxes = [Box(-50, -9, 30, 40), Box(0, 0, 30, 40)]
    ((beyond, inside),) = made.segment(IMAGES[:1], [boxes])
    np.testing.assert_array_equal(beyond, inside)
