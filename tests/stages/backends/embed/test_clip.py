import json
import shutil

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from fakes.tiny.clip import MAX_TOKENS, save_clip
from stages.backends.embed.clip import ClipSettings
from stages.base import Device
from tests.stages.backends.contract import random_image

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


def test_a_text_that_the_model_would_cut_off_is_refused(clip):
    # Two marks, and a token for each letter that stands alone.
    longest = " ".join("x" * (MAX_TOKENS - 2))
    assert clip.fits(longest)
    assert clip.embed_texts([longest]).shape == (1, 16)
    assert not clip.fits(longest + " x")
    with pytest.raises(ValueError, match="1 tokens too many"):
        clip.embed_texts(["a", longest + " x"])


def test_weights_of_either_form_are_downloaded():
    """OpenAI's own of 336 px has no safetensors on its main branch."""
    (checkpoint,) = ClipSettings().checkpoints()
    assert {"*.safetensors", "pytorch_model.bin"} <= set(checkpoint.patterns)


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
