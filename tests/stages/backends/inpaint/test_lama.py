import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fakes.tiny.lama import save_lama
from stages.backends.inpaint.lama import LamaSettings
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.base import BackendSettings, Device

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


@pytest.fixture(scope="session")
def lama_file(tmp_path_factory):
    return save_lama(tmp_path_factory.mktemp("lama") / "big-lama.pt")


@pytest.fixture
def lama(lama_file):
    backend = LamaSettings(model=str(lama_file.parent)).load(Device())
    yield backend
    backend.close()


def scene(height, width, seed=0):
    """An image, and a hole in it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    image = np.ascontiguousarray(coarse.repeat(8, 0).repeat(8, 1)[:height, :width])
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height // 2, width // 3 : width // 2] = True
    return image, mask


def filled(backend, *scenes):
    images, masks = [p for p, _ in scenes], [m for _, m in scenes]
    return backend.fill(images, masks, [np.zeros_like(m) for m in masks])


SIZES = [(64, 48), (61, 45), (33, 90), (64, 41), (16, 16), (61, 45), (130, 64)]


def test_the_hole_is_filled_and_nothing_else_changes(lama):
    scenes = [scene(*size, seed=k) for k, size in enumerate(SIZES)]
    for (image, mask), out in zip(scenes, filled(lama, *scenes), strict=True):
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        np.testing.assert_array_equal(out[~mask], image[~mask])
        assert (out[mask] != image[mask]).mean() > 0.5


def test_a_fill_does_not_depend_on_the_batch(lama):
    scenes = [scene(*size, seed=k) for k, size in enumerate(SIZES)]
    together = filled(lama, *scenes)
    for one, out in zip(scenes, together, strict=True):
        (alone,) = filled(lama, one)
        # A value at the middle between two grey levels may round either way.
        assert np.abs(alone.astype(int) - out).max() <= 1


def test_only_images_of_one_padded_size_share_a_pass(lama):
    shapes = []
    network = lama._network
    lama._network = lambda image, mask: shapes.append(tuple(image.shape)) or network(image, mask)
    lama.settings = replace(lama.settings, max_batch=2)
    filled(lama, *(scene(*size) for size in SIZES))
    assert sorted(shapes) == [
        (1, 3, 16, 16),
        (1, 3, 40, 96),
        (1, 3, 136, 64),
        # 64x48, and 61x45 and 64x41 that were padded to it
        (2, 3, 64, 48),
        (2, 3, 64, 48),
    ]


def test_it_gives_what_the_network_gives_on_the_symmetrically_padded_image(lama, lama_file):
    image, mask = scene(61, 45)
    (out,) = filled(lama, (image, mask))
    padded = np.pad(image, ((0, 3), (0, 3), (0, 0)), mode="symmetric")
    hole = np.pad(mask, ((0, 3), (0, 3)), mode="symmetric")
    with torch.inference_mode():
        made = torch.jit.load(str(lama_file))(
            torch.from_numpy(padded).permute(2, 0, 1)[None] / 255,
            torch.from_numpy(hole)[None, None].float(),
        )
    expected = (made[0].permute(1, 2, 0).numpy()[:61, :45] * 255).round()
    assert np.abs(out[mask] - expected[mask]).max() <= 1


def test_what_lies_under_the_mask_or_its_growth_does_not_shine_through(lama):
    image, mask = scene(64, 48)
    lama.settings = replace(lama.settings, dilation_px=3)
    (out,) = filled(lama, (image, mask))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    rim = (cv2.dilate(mask.astype(np.uint8), disc) > 0) & ~mask
    repainted = image.copy()
    repainted[mask | rim] = (255, 0, 255)
    (other,) = filled(lama, (repainted, mask))
    np.testing.assert_array_equal(other[mask], out[mask])
    np.testing.assert_array_equal(other[rim], repainted[rim])
    lama.settings = replace(lama.settings, dilation_px=0)
    (seen,) = filled(lama, (repainted, mask))
    assert (seen[mask] != other[mask]).any()


def test_a_large_image_is_filled_at_a_reduced_size(lama):
    shapes = []
    network = lama._network
    lama._network = lambda image, mask: shapes.append(tuple(image.shape)) or network(image, mask)
    lama.settings = replace(lama.settings, max_side=64)
    image, mask = scene(150, 100)
    mask[0, 0] = True  # a single pixel must not vanish when the hole is reduced
    (out,) = filled(lama, (image, mask))
    assert shapes == [(1, 3, 64, 48)]
    np.testing.assert_array_equal(out[~mask], image[~mask])
    repainted = image.copy()
    repainted[mask] = 7
    # What the reduced pixels at the rim hold of the object is hidden, too.
    np.testing.assert_array_equal(filled(lama, (repainted, mask))[0][mask], out[mask])


def test_numbers_that_are_none_are_trouble(lama):
    lama._network = lambda image, mask: image * float("nan")
    with pytest.raises(ValueError, match="not finite"):
        filled(lama, scene(16, 16))


def test_opening_and_closing(lama_file):
    for path in (lama_file, lama_file.parent):
        backend = LamaSettings(model=str(path))
        assert pickle.loads(pickle.dumps(backend)) == backend
        model = backend.load(Device(dtype="bfloat16"))  # it stays in float32
        assert filled(model, scene(16, 16))[0].shape == (16, 16, 3)
        model.close()
        model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))


class OneArgument(torch.nn.Module):
    def forward(self, image):
        return image


class Shrinks(torch.nn.Module):
    def forward(self, image, mask):
        return image[:, :, ::2] * mask[:, :, ::2]


def test_files_that_will_not_do(tmp_path):
    def refused(words):
        with pytest.raises(CheckpointError, match=words) as caught:
            LamaSettings(model=str(tmp_path)).load(Device())
        assert "\n" not in str(caught.value)

    refused("holds no big-lama.pt")
    file = tmp_path / "big-lama.pt"
    file.write_text("<html>not found</html>")
    refused("no TorchScript file.*not as a .ckpt or a state dict")
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, file)
    refused("no TorchScript file")
    for wrong in (OneArgument(), Shrinks()):
        torch.jit.save(torch.jit.script(wrong), str(file))
        refused("is TorchScript, but does not take an image and a mask")
    with pytest.raises(CheckpointError, match="no model at"):
        LamaSettings(model=str(tmp_path / "none.pt")).load(Device())


def test_settings():
    adapter = TypeAdapter(LamaSettings)
    one = adapter.validate_python({"model": "a/b", "revision": "v1", "file": "x.pt"})
    assert isinstance(one, BackendSettings)
    assert one.checkpoints() == (Checkpoint("a/b", "v1", ("x.pt",)),)
    for wrong in ({"side": 3}, {"max_side": 8}, {"dilation_px": -1}, {"max_batch": 0}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
