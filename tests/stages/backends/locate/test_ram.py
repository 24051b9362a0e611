import pickle
import zipfile
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fakes.tiny.ram import SIDE, TAGS, official_weights, reference, save_ram
from stages.backends.locate.ram import RamSettings
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, HasCheckpoints
from stages.base import BackendSettings, Device

SAME = 1e-5
"""Logits of two ways to compute them, and of one image in two batches, in float32."""


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1)[:height, :width])


IMAGES = [random_image(48, 80, 1), random_image(100, 60, 2), random_image(64, 64, 3)]


@pytest.fixture(scope="module", params=[False, True], ids=["ram", "ram_plus"])
def made(request, tmp_path_factory):
    """Settings of a checkpoint, its reference, and an opened backend."""
    settings = save_ram(tmp_path_factory.mktemp("ram"), plus=request.param)
    backend = RamSettings(**settings).load(Device())
    yield settings, reference(plus=request.param), backend
    backend.close()


def by_hand(image):
    """An image as the authors prepare it: squeezed, scaled and normalised."""
    small = PIL.Image.fromarray(image).resize((SIDE, SIDE), PIL.Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (values - mean) / std


def test_logits_are_those_of_the_reference(made):
    _, plain, backend = made
    pixels = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = torch.stack([plain(one) for one in pixels])
        found = backend._model(pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=SAME, rtol=0)
    # Tags differ and images differ, by far more than the tolerance.
    assert expected.std(0).min() > 1e-2
    assert expected.std(1).min() > 1e-2


def test_tags_are_those_above_their_own_threshold(made, tmp_path):
    settings, plain, _ = made
    with torch.inference_mode():
        chances = torch.stack([plain(by_hand(image)) for image in IMAGES]).sigmoid().numpy()
    # For each tag a threshold that one image passes and another does not.
    least = (np.sort(chances, 0)[0] + np.sort(chances, 0)[1]) / 2
    path = tmp_path / "thresholds.txt"
    path.write_text("\n".join(f"{value:.9f}" for value in least) + "\n")
    backend = RamSettings(**{**settings, "thresholds": str(path)}).load(Device())
    found = backend.tag(IMAGES)
    for tags, row in zip(found, chances, strict=True):
        expected = {name: p for name, p, t in zip(TAGS, row, least, strict=True) if p > t}
        assert dict(tags) == pytest.approx(expected, abs=SAME)
    assert sum(len(tags) for tags in found) == 2 * len(TAGS)


def test_neither_the_batch_nor_its_cuts_change_a_tag(made):
    _, _, backend = made
    together = backend.tag(IMAGES)
    backend.settings = replace(backend.settings, max_batch=2)
    cut = backend.tag(IMAGES)
    backend.settings = replace(backend.settings, max_batch=16)
    for k, image in enumerate(IMAGES):
        (alone,) = backend.tag([image])
        assert dict(together[k]) == pytest.approx(dict(alone), abs=SAME)
        assert dict(cut[k]) == pytest.approx(dict(alone), abs=SAME)
    assert backend.tag([]) == []


def test_half_precision(made):
    settings, plain, _ = made
    backend = RamSettings(**settings).load(Device(dtype="bfloat16"))
    pixels = torch.stack([by_hand(image) for image in IMAGES])
    with torch.inference_mode():
        expected = torch.stack([plain(one) for one in pixels])
        found = backend._model(pixels.bfloat16())
    assert found.dtype == torch.float32
    # 0.13 when this was written; bfloat16 keeps 3 digits, and logits here run to 5.
    assert (found - expected).abs().max() < 0.2


def test_an_older_file_says_vision_multi(tmp_path):
    settings = save_ram(tmp_path, plus=False)
    model = reference(plus=False)
    weights = {
        key.replace("tagging_head", "vision_multi"): value
        for key, value in official_weights(model).items()
        if not key.endswith("attn_mask")
    }
    # Saved before torch 1.6: no zip file, which cannot be mapped into memory.
    path = tmp_path / "old.pth"
    torch.save({"model": weights}, path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    backend = RamSettings(**{**settings, "model": str(path)}).load(Device())
    pixels = torch.stack([by_hand(image) for image in IMAGES])
    with torch.inference_mode():
        expected = torch.stack([model(one) for one in pixels])
        torch.testing.assert_close(backend._model(pixels), expected, atol=SAME, rtol=0)


def changed(weights, drop=(), put=()):
    weights = {key: value for key, value in weights.items() if key not in drop}
    return {"model": {**weights, **dict(put)}}


LAYER = "tagging_head.encoder.layer.1"


@pytest.mark.parametrize(
    ("drop", "put", "message"),
    [
        (("fc.bias",), {}, r"lacks fc\.bias$"),
        ((f"{LAYER}.output.dense.bias",), {}, rf"lacks {LAYER}\.output\.dense\.bias$"),
        (("visual_encoder.norm.weight",), {}, r"lacks visual_encoder\.norm\.weight$"),
        (("label_embed",), {}, "lacks label_embed; is it a RAM"),
        (("visual_encoder.patch_embed.proj.weight",), {}, "with a Swin encoder"),
        (
            (),
            {"visual_encoder.layers.1.blocks.0.attn.qkv.bias": torch.zeros(97)},
            r"attn\.qkv\.bias of shape \[97\]; \[96\] fits",
        ),
        ((), {"image_proj.weight": torch.zeros(3, 3)}, r"image_proj\.weight of shape \[3, 3\]"),
        (
            (),
            {"momentum": torch.zeros(3), "queue": torch.zeros(1)},
            "has 2 keys that map to nothing, such as momentum",
        ),
        ((), {"label_embed": torch.zeros(3)}, "2 dimensions are expected"),
        ((), {"label_embed": torch.zeros(8 * 51, 24)}, r"knows 8 tags .* has 7 lines"),
        ((), {"label_embed": torch.zeros(8 * 51 - 1, 24)}, "51 for every tag"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, drop, put, message):
    settings = save_ram(tmp_path)
    path = tmp_path / settings["file"]
    torch.save(changed(official_weights(reference(plus=True)), drop, put), path)
    backend = RamSettings(**settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        backend.load(Device())
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_keys_can_be_ignored_by_the_recipe(tmp_path):
    settings = save_ram(tmp_path)
    weights = official_weights(reference(plus=True))
    put = {"teacher.logit_scale": torch.zeros(())}
    torch.save(changed(weights, put=put), tmp_path / settings["file"])
    RamSettings(**settings, ignore=("teacher.",)).load(Device())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {}}, 'no weights under "model"'),
        ({"model": {"fc.weight": "no tensor"}}, 'no weights under "model"'),
        ([1, 2], 'no weights under "model"'),
        ({"model": {}, "config": Device()}, "no checkpoint of weights"),
        (b"\x80\x04nonsense", "no checkpoint of weights"),
        (b"", "no checkpoint of weights"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, message):
    settings = save_ram(tmp_path)
    path = tmp_path / settings["file"]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        RamSettings(**settings).load(Device())
    assert "\n" not in str(caught.value)


def test_images_of_another_size(tmp_path):
    settings = save_ram(tmp_path)
    with pytest.raises(CheckpointError, match="multiple of 64; image_size is 96"):
        RamSettings(**{**settings, "image_size": 96}).load(Device())
    with pytest.raises(CheckpointError, match="images of 64 pixels a side; image_size is 128"):
        RamSettings(**{**settings, "image_size": 128}).load(Device())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tag_list", "dog\ncat", r"knows 7 tags .*, but .* has 2 lines"),
        ("tag_list", "dog\n\ncat", "line 2 is empty"),
        ("thresholds", "0.5\n" * 8, r"knows 7 tags .*, but .* has 8 lines"),
        ("thresholds", "0.5\nhigh\n", "line 2: 'high' is no probability"),
        ("thresholds", "0.5\n1.5\n", "line 2: '1.5' is no probability"),
        ("tag_list", None, "cannot read .*; it comes from github.com"),
    ],
)
def test_lists_that_do_not_fit(tmp_path, name, text, message):
    settings = save_ram(tmp_path)
    settings[name] = str(tmp_path / "list.txt")
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        RamSettings(**settings).load(Device())


def test_a_folder_without_the_file(tmp_path):
    settings = save_ram(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no other\.pth"):
        RamSettings(**{**settings, "file": "other.pth"}).load(Device())
    with pytest.raises(CheckpointError, match="no model at"):
        RamSettings(**{**settings, "model": str(tmp_path / "none")}).load(Device())


def test_opening_closing_and_settings(made, tmp_path):
    settings, _, _ = made
    backend = TypeAdapter(RamSettings).validate_python({**settings, "max_batch": 3})
    assert isinstance(backend, BackendSettings)
    assert isinstance(backend, HasCheckpoints)
    assert pickle.loads(pickle.dumps(backend)) == backend
    model = backend.load(Device())
    model.close()
    model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))
    for wrong in ({"image_size": 0}, {"tags": "x"}, {"name": "ram_plus"}):
        with pytest.raises(ValidationError):
            TypeAdapter(RamSettings).validate_python(wrong)
    default = RamSettings().checkpoints()
    assert default[0] == Checkpoint(
        "xinyu1205/recognize-anything-plus-model", None, ("ram_plus_swin_large_14m.pth",)
    )
    assert [c.model for c in default[1:]] == ["ram_tag_list.txt", "ram_tag_list_threshold.txt"]
