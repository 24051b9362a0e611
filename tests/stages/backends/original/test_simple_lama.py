import os

import numpy as np
import pytest

from fakes.tiny.lama import save_lama
from stages.backends.inpaint.lama import LamaSettings
from stages.backends.original.simple_lama import SimpleLamaSettings
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import Device


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    pytest.importorskip("simple_lama_inpainting")
    return save_lama(tmp_path_factory.mktemp("lama") / "big-lama.pt")


def scene(height, width, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 3 : width // 2] = True
    return image, mask


def test_it_fills_as_the_backend_lama_does(file):
    before = os.environ.get("LAMA_MODEL")
    scenes = [scene(61, 45), scene(64, 48, 1)]
    images, masks = [p for p, _ in scenes], [m for _, m in scenes]
    results = []
    for settings in (SimpleLamaSettings, LamaSettings):
        model = settings(model=str(file)).load(Device())
        results.append(model.fill(images, masks, masks))
    assert os.environ.get("LAMA_MODEL") == before
    for image, mask, one, other in zip(images, masks, *results, strict=True):
        assert one.shape == image.shape
        np.testing.assert_array_equal(one[~mask], image[~mask])
        # The package cuts the fraction of a grey level off, `lama` rounds it.
        assert np.abs(one.astype(int) - other).max() <= 1


def test_without_the_package_the_successor_is_named():
    try:
        import simple_lama_inpainting  # noqa: F401
    except ImportError:
        with pytest.raises(CheckpointError, match="take the backend lama"):
            SimpleLamaSettings().load(Device())
