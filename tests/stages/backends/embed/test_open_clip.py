import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch

from stages.backends.embed.open_clip import OpenClipSettings
from stages.backends.embed.sentence_rules import SentenceRules
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import Device
from stages.wording.sentences import split_to_fit
from tests.stages.backends.contract import random_image

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


def test_weights_of_another_width_will_not_do(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["width"] = 16
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"open_clip model: .*state_dict") as caught:
        OpenClipSettings(model=str(tmp_path)).load(Device())
    assert "\n" not in str(caught.value)
