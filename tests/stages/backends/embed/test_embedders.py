"""DINOv2 and SigLIP: the same questions to both."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
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
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.base import BackendSettings, Device

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


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


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


def test_rows_do_not_depend_on_the_batch(made):
    together = made.embed(IMAGES)
    made.settings = replace(made.settings, max_batch=3)
    np.testing.assert_allclose(made.embed(IMAGES), together, atol=ATOL)
    for image, row in zip(IMAGES, together, strict=True):
        np.testing.assert_allclose(made.embed([image])[0], row, atol=ATOL)


def test_half_precision_gives_nearly_the_same_unit_rows(made):
    full = made.embed(IMAGES)
    made = made.settings.load(Device(dtype="bfloat16"))
    half = made.embed(IMAGES)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert (half * full).sum(axis=1).min() > 0.995


def test_patch_means_leave_class_and_register_tokens_out(folders):
    for kind, num_before in (("dinov2", 1), ("registers", 4)):
        backend = Dinov2Settings(model=str(folders[kind]), pooling="mean").load(Device())
        rows = backend.embed(IMAGES)
        tokens = backend._model(backend._images.stacked(IMAGES)).last_hidden_state
        assert tokens.shape[1] == num_before + 16
        expected = tokens[:, num_before:].mean(1).detach()
        expected /= expected.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(rows, expected.numpy(), atol=ATOL)


def test_the_whole_view_sees_what_the_crop_cuts_off(folders):
    before = random_image(40, 120)
    edited = before.copy()
    edited[:, :12] = 255 - edited[:, :12]
    values = {}
    for view in ("crop", "whole"):
        backend = Dinov2Settings(model=str(folders["dinov2"]), view=view).load(Device())
        one, other = backend.embed([before, edited])
        values[view] = float(one @ other)
    assert values["crop"] == pytest.approx(1, abs=1e-6)
    assert values["whole"] < 0.999


def test_opening_and_closing(kind, folders):
    backend = BACKENDS[kind](model=str(folders[kind]))
    assert pickle.loads(pickle.dumps(backend)) == backend
    model = backend.load(Device())
    model.close()
    model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))


def test_checkpoints_that_will_not_do(folders, tmp_path):
    for backend, wrong, words in (
        (
            Dinov2Settings,
            folders["siglip"],
            "type 'siglip'; dinov2 or dinov2_with_registers is needed",
        ),
        (SiglipSettings, folders["dinov2"], "type 'dinov2'; siglip or .* is needed"),
        (SiglipSettings, tmp_path / "none", "no model at"),
        (SiglipSettings, save_siglip(tmp_path / "headless", head=False), "no pooling head"),
    ):
        with pytest.raises(CheckpointError, match=words):
            backend(model=str(wrong)).load(Device())


def test_settings():
    for cls in (Dinov2Settings, SiglipSettings):
        adapter = TypeAdapter(cls)
        one = adapter.validate_python({"model": "a/b", "revision": "v1"})
        assert isinstance(one, BackendSettings)
        assert one.checkpoints() == (Checkpoint("a/b", "v1"),)
        for wrong in ({"modle": 3}, {"max_batch": 0}):
            with pytest.raises(ValidationError):
                adapter.validate_python(wrong)
    with pytest.raises(ValidationError):
        TypeAdapter(Dinov2Settings).validate_python({"pooling": "max"})
