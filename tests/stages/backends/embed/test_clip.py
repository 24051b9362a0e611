import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from fakes.tiny.clip import MAX_TOKENS, save_clip
from fakes.tiny.dinov2 import save_dinov2
from stages.backends.embed.clip import ClipSettings
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import BackendSettings, Device

ATOL = 1e-5
"""Of a coordinate of a unit vector, in float32."""


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def clip(clip_folder):
    backend = ClipSettings(model=str(clip_folder)).load(Device())
    yield backend
    backend.close()


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


IMAGES = [random_image(60, 90, 1), random_image(33, 33, 2), random_image(90, 40, 3)]
TEXTS = ["the dog sits", "a", "the red cat and the dog", "Zäh, 3.5!"]


def test_rows_are_what_the_checkpoints_own_processor_and_model_give(clip, clip_folder):
    model = CLIPModel.from_pretrained(clip_folder)
    processor = CLIPImageProcessorPil.from_pretrained(clip_folder)
    tokenizer = CLIPTokenizer.from_pretrained(clip_folder)
    with torch.inference_mode():
        seen = [
            model.get_image_features(**processor(image, return_tensors="pt")).pooler_output[0]
            for image in IMAGES
        ]
        read = [
            model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0]
            for text in TEXTS
        ]
    for rows, expected in ((clip.embed_images(IMAGES), seen), (clip.embed_texts(TEXTS), read)):
        assert rows.dtype == np.float32
        unit = np.stack([vector / vector.norm() for vector in expected])
        np.testing.assert_allclose(rows, unit, atol=ATOL)
        assert (rows @ rows.T).min() < 0.99


def test_rows_do_not_depend_on_the_batch(clip):
    images, texts = clip.embed_images(IMAGES), clip.embed_texts(TEXTS)
    clip.settings = replace(clip.settings, max_batch=3)
    np.testing.assert_allclose(clip.embed_images(IMAGES), images, atol=ATOL)
    np.testing.assert_allclose(clip.embed_texts(TEXTS), texts, atol=ATOL)
    clip.settings = replace(clip.settings, max_batch=1)
    np.testing.assert_allclose(clip.embed_images(IMAGES), images, atol=ATOL)
    np.testing.assert_allclose(clip.embed_texts(TEXTS), texts, atol=ATOL)


def test_a_text_that_the_model_would_cut_off_is_refused(clip):
    # Two marks, and a token for each letter that stands alone.
    longest = " ".join("x" * (MAX_TOKENS - 2))
    assert clip.fits(longest)
    assert clip.embed_texts([longest]).shape == (1, 16)
    assert not clip.fits(longest + " x")
    with pytest.raises(ValueError, match="1 tokens too many"):
        clip.embed_texts(["a", longest + " x"])


def test_the_whole_view_sees_what_the_crop_cuts_off(clip_folder):
    before = random_image(40, 120)
    edited = before.copy()
    edited[:, :12] = 255 - edited[:, :12]
    values = {}
    for view in ("crop", "whole"):
        backend = ClipSettings(model=str(clip_folder), view=view).load(Device())
        one, other = backend.embed_images([before, edited])
        values[view] = float(one @ other)
    assert values["crop"] == pytest.approx(1, abs=1e-6)
    assert values["whole"] < 0.999


@pytest.mark.parametrize("view", ["crop", "whole"])
def test_the_old_form_of_openais_settings_is_read(clip_folder, tmp_path, view):
    """Sizes as bare numbers, no rescaling named: so the 336 px checkpoint has them."""
    folder = shutil.copytree(clip_folder, tmp_path / "old")
    file = folder / "preprocessor_config.json"
    new = json.loads(file.read_text())
    kept = ("do_center_crop", "do_normalize", "do_resize", "image_mean", "image_std", "resample")
    old = {key: new[key] for key in kept} | {"size": 32, "crop_size": 32}
    file.write_text(json.dumps({**old, "feature_extractor_type": "CLIPFeatureExtractor"}))
    rows = []
    for where in (clip_folder, folder):
        backend = ClipSettings(model=str(where), view=view).load(Device())
        rows.append(backend.embed_images(IMAGES))
    np.testing.assert_array_equal(*rows)


def test_half_precision_gives_nearly_the_same_unit_rows(clip):
    full = clip.embed_images(IMAGES), clip.embed_texts(TEXTS)
    clip = clip.settings.load(Device(dtype="bfloat16"))
    for one, half in zip(full, (clip.embed_images(IMAGES), clip.embed_texts(TEXTS)), strict=True):
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
        assert (one * half).sum(axis=1).min() > 0.99


def test_opening_and_closing(clip_folder, tmp_path):
    backend = ClipSettings(model=str(clip_folder))
    assert isinstance(backend, BackendSettings)
    assert pickle.loads(pickle.dumps(backend)) == backend
    model = backend.load(Device())
    model.close()
    model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))
    with pytest.raises(CheckpointError, match="type 'dinov2'; clip is needed"):
        ClipSettings(model=str(save_dinov2(tmp_path))).load(Device())


def test_settings():
    adapter = TypeAdapter(ClipSettings)
    one = adapter.validate_python({"model": "a/b", "revision": "v1", "view": "whole"})
    (checkpoint,) = one.checkpoints()
    assert (checkpoint.model, checkpoint.revision) == ("a/b", "v1")
    assert "pytorch_model.bin" in checkpoint.patterns
    for wrong in ({"modle": 3}, {"max_batch": 0}, {"view": "half"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
