"""The first packages under the contract, as far as they are installed."""

from functools import partial

import pytest

from fakes.tiny.lama import save_lama
from stages.backends.original.groundingdino import GroundingDinoPySettings
from stages.backends.original.segment_anything import SegmentAnythingSettings
from stages.backends.original.simple_lama import SimpleLamaSettings
from tests.stages.backends.contract import (
    BOXES,
    HOLES,
    IMAGES,
    TAGS,
    Case,
    Contract,
    boxes_near,
    bytes_near,
    masks_near,
    rows,
)


def saved_dino(folder):
    pytest.importorskip("groundingdino")
    from fakes.tiny.groundingdino import save_original_dino

    return {**save_original_dino(folder), "box_threshold": 0.0, "text_threshold": 0.0}


def saved_sam(folder):
    package = pytest.importorskip("segment_anything")
    from fakes.tiny.segment_anything import build_tiny, save_original_sam

    package.sam_model_registry["tiny"] = build_tiny
    return {"model": str(save_original_sam(folder / "sam_tiny.pth")), "architecture": "tiny"}


def saved_lama(folder):
    pytest.importorskip("simple_lama_inpainting")
    return {"model": str(save_lama(folder / "big-lama.pt"))}


# One image at a time in float32, whatever the device's type.
CASES = [
    Case(
        "groundingdino_py",
        GroundingDinoPySettings,
        saved_dino,
        ask=rows("detect", IMAGES, TAGS),
        same=partial(boxes_near, pixels=2e-3, score=2e-5),
        near=partial(boxes_near, pixels=2e-3, score=2e-5),
        cuts=(),
        refused=[{"box_threshold": 2}],
        weights="groundingdino_tiny.pth",
        needed=("module.transformer.level_embed", "such as transformer.level_embed"),
    ),
    Case(
        "segment_anything",
        SegmentAnythingSettings,
        saved_sam,
        ask=rows("segment", IMAGES, BOXES),
        same=partial(masks_near, flips=1e-3),
        near=partial(masks_near, flips=1e-3),
        cuts=[{"max_boxes": 1}, {"max_boxes": 2}],
        refused=[{"architecture": "vit_x"}, {"max_boxes": 0}],
        weights="sam_tiny.pth",
        needed=("mask_decoder.iou_token.weight", "state_dict"),
    ),
    Case(
        "simple_lama",
        SimpleLamaSettings,
        saved_lama,
        ask=rows("fill", IMAGES, HOLES, HOLES),
        same=bytes_near,
        near=bytes_near,
        cuts=(),
        refused=(),
        weights="big-lama.pt",
    ),
]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
class TestOriginals(Contract):
    """Each package of its own."""

    @pytest.fixture(scope="class", params=CASES, ids=lambda case: case.name)
    @classmethod
    def case(cls, request):
        return request.param
