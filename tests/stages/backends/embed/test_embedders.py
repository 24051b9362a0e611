"""DINOv2 and SigLIP: the same questions to both."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BitImageProcessorPil,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
)

from fakes.tiny.dinov2 import save_dinov2
from fakes.tiny.siglip import save_siglip, save_siglip2
from stages.backends.embed.dinov2 import Dinov2Settings
from stages.backends.embed.siglip import SiglipSettings
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import Device
from tests.stages.backends.contract import random_image

ATOL = 1e-5
"""Of a coordinate of a unit vector, in float32."""


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("embedders")
    return {
        "dinov2": save_dinov2(root / "dinov2"),
        "registers": save_dinov2(root / "registers", registers=3),
        "siglip": save_siglip(root / "siglip"),
        "siglip2": save_siglip2(root / "siglip2"),
    }


BACKENDS = {
    "dinov2": Dinov2Settings,
    "registers": Dinov2Settings,
    "siglip": SiglipSettings,
    "siglip2": SiglipSettings,
}


@pytest.fixture(params=list(BACKENDS))
def kind(request):
    return request.param


@pytest.fixture
def made(kind, folders):
    backend = BACKENDS[kind](model=str(folders[kind])).load(Device())
    yield backend
    backend.close()


IMAGES = [
    random_image(60, 90, 1),
    random_image(33, 33, 2),
    random_image(200, 70, 3),
    random_image(60, 90, 4),
]


def by_hand(kind, folder):
    """The checkpoint's own processor and whole model, image by image."""
    processor = {"siglip": SiglipImageProcessorPil, "siglip2": Siglip2ImageProcessorPil}.get(
        kind, BitImageProcessorPil
    )
    model, processor = AutoModel.from_pretrained(folder), processor.from_pretrained(folder)
    rows = []
    for image in IMAGES:
        inputs = processor(image, return_tensors="pt")
        with torch.inference_mode():
            if kind.startswith("siglip"):
                vector = model.get_image_features(**inputs).pooler_output[0]
            else:
                vector = model(**inputs).pooler_output[0]
        rows.append((vector / vector.norm()).numpy())
    return np.stack(rows)


def test_rows_are_what_the_checkpoints_own_processor_and_model_give(made, kind, folders):
    rows = made.embed(IMAGES)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(rows, by_hand(kind, folders[kind]), atol=ATOL)
    # Not all the same: the model does see the images.
    assert (rows @ rows.T).min() < 0.99


def test_patch_means_leave_class_and_register_tokens_out(folders):
    for kind, num_before in (("dinov2", 1), ("registers", 4)):
        backend = Dinov2Settings(model=str(folders[kind]), pooling="mean").load(Device())
        rows = backend.embed(IMAGES)
        tokens = backend._model(backend._images.stacked(IMAGES)).last_hidden_state
        assert tokens.shape[1] == num_before + 16
        expected = tokens[:, num_before:].mean(1).detach()
        expected /= expected.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(rows, expected.numpy(), atol=ATOL)


def test_a_tower_without_a_pooling_head_gives_no_vector(tmp_path):
    with pytest.raises(CheckpointError, match="no pooling head"):
        SiglipSettings(model=str(save_siglip(tmp_path, head=False))).load(Device())
