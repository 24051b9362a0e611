import json
import pickle
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages.backends.embed.open_clip import OpenClipSettings
from stages.backends.embed.sentence_rules import SentenceRules
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import BackendSettings, Device
from stages.wording.sentences import split_to_fit

open_clip = pytest.importorskip("open_clip")

ATOL = 1e-5
"""Of a coordinate of a unit vector, in float32."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    from fakes.tiny.open_clip import save_open_clip

    return save_open_clip(tmp_path_factory.mktemp("open_clip"))


@pytest.fixture
def clip(folder):
    backend = OpenClipSettings(model=str(folder)).load(Device())
    yield backend
    backend.close()


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])


IMAGES = [random_image(60, 90, 1), random_image(33, 33, 2), random_image(90, 40, 3)]
TEXTS = ["the dog sits", "a", "The red cat and the dog.", "Zäh, 3.5!"]


def test_rows_are_what_the_library_gives(clip, folder):
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        seen = [
            model.encode_image(transform(PIL.Image.fromarray(image))[None], normalize=True)[0]
            for image in IMAGES
        ]
        read = [model.encode_text(tokenizer([text]), normalize=True)[0] for text in TEXTS]
    for rows, expected in ((clip.embed_images(IMAGES), seen), (clip.embed_texts(TEXTS), read)):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, np.stack(expected), atol=ATOL)
        assert (rows @ rows.T).min() < 0.999


def test_rows_do_not_depend_on_the_batch(clip):
    images, texts = clip.embed_images(IMAGES), clip.embed_texts(TEXTS)
    for size in (3, 1):
        clip.settings = replace(clip.settings, max_batch=size)
        np.testing.assert_allclose(clip.embed_images(IMAGES), images, atol=ATOL)
        np.testing.assert_allclose(clip.embed_texts(TEXTS), texts, atol=ATOL)


def test_a_text_that_the_library_would_cut_off_is_refused_and_can_be_divided(clip):
    longest = " ".join(["dog"] * 22)
    assert clip.fits(longest)
    assert not clip.fits(longest + " dog")
    with pytest.raises(ValueError, match="1 tokens too many"):
        clip.embed_texts(["a", longest + " dog"])
    (sentence,) = SentenceRules().split([longest + " dog sits, and the cat sits"])[0]
    pieces = split_to_fit(sentence, clip.fits)
    assert len(pieces) == 2
    assert clip.embed_texts(pieces).shape == (2, 16)


def test_the_whole_view_sees_what_the_crop_cuts_off(folder):
    before = random_image(40, 120)
    edited = before.copy()
    edited[:, :12] = 255 - edited[:, :12]
    values = {}
    for view in ("crop", "whole"):
        backend = OpenClipSettings(model=str(folder), view=view).load(Device())
        one, other = backend.embed_images([before, edited])
        values[view] = float(one @ other)
    assert values["crop"] == pytest.approx(1, abs=1e-6)
    assert values["whole"] < 0.9999


def test_half_precision_gives_nearly_the_same_unit_rows(clip):
    full = clip.embed_images(IMAGES), clip.embed_texts(TEXTS)
    clip = clip.settings.load(Device(dtype="bfloat16"))
    for one, half in zip(full, (clip.embed_images(IMAGES), clip.embed_texts(TEXTS)), strict=True):
        np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
        assert (one * half).sum(axis=1).min() > 0.99


def test_opening_and_closing(folder, tmp_path):
    backend = OpenClipSettings(model=str(folder))
    assert isinstance(backend, BackendSettings)
    assert pickle.loads(pickle.dumps(backend)) == backend
    model = backend.load(Device())
    model.close()
    model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))
    for message in ("config file missing", "weights"):
        with pytest.raises(CheckpointError, match=f"holds no open_clip model: .*{message}"):
            OpenClipSettings(model=str(tmp_path)).load(Device())
        text = (folder / "open_clip_config.json").read_text()
        (tmp_path / "open_clip_config.json").write_text(text)
    (tmp_path / "open_clip_model.safetensors").write_bytes(
        (folder / "open_clip_model.safetensors").read_bytes()
    )
    config = json.loads(text)
    config["model_cfg"]["vision_cfg"]["width"] = 16
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"open_clip model: .*state_dict") as caught:
        OpenClipSettings(model=str(tmp_path)).load(Device())
    assert "\n" not in str(caught.value)


def test_settings():
    adapter = TypeAdapter(OpenClipSettings)
    one = adapter.validate_python({"model": "a/b", "revision": "v1", "view": "whole"})
    (checkpoint,) = one.checkpoints()
    assert (checkpoint.model, checkpoint.revision) == ("a/b", "v1")
    for wrong in ({"modle": 3}, {"max_batch": 0}, {"view": "half"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
