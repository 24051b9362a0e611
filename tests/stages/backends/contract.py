"""What every backend with a checkpoint is asked. Knows settings and their models, not which.

`Contract` holds the questions, a `Case` what a backend needs to be asked them. Imports no package
of models but torch: the originals are asked in an environment of their own.
"""

from __future__ import annotations

import gc
import json
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from schemas.geometry import Box
from stages.backends.weights.checkpoints import CheckpointError, HasCheckpoints
from stages.base import BackendSettings, Device


def random_image(height, width, seed=0):
    """Blobs of colour, as neighbouring pixels of a photo are alike; read-only, as rows are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    pixels = np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1)[:height, :width])
    pixels.setflags(write=False)
    return pixels


IMAGES = [random_image(*size, seed) for seed, size in enumerate([(48, 80), (100, 60), (30, 90)])]
IMAGES += [random_image(48, 80, 3), random_image(64, 64, 4)]
TAGS = [["dog", "red panda"], ["frisbee"], [], ["man", "cat", "a big bus"], ["table"]]
TEXTS = ["the dog sits", "a", "the red cat and the dog", "Zäh, 3.5!", "red"]
BOXES = [
    [Box(2, 3, 30, 40), Box(40, 10, 70, 30), Box(0, 0, 80, 48)],
    [Box(5, 50, 55, 95)],
    [],
    [Box(5, 5, 30, 25)],
    [Box(10, 10, 20, 20), Box(30.5, 12.25, 60, 61)],
]
HOLES = [np.zeros(image.shape[:2], bool) for image in IMAGES]
for hole in HOLES:
    height, width = hole.shape
    hole[height // 4 : height // 2, width // 3 : width // 2] = True


@dataclass(frozen=True)
class Case:
    """One backend, its tiny checkpoint, and how it is asked."""

    name: str
    backend: type[Any]
    save: Callable[[Path], Mapping[str, Any]]
    """Saves a checkpoint into an empty folder; the settings that load it."""
    ask: Callable[[Any, Sequence[int]], Sequence[Any]]
    """One answer of the model for each of these rows."""
    same: Callable[[Any, Any], None]
    """Asserts that two answers differ by no more than rounding in float32."""
    near: Callable[[Any, Any], None]
    """Asserts that an answer in bfloat16 is near that in float32."""
    cuts: Sequence[Mapping[str, Any]] = ({"max_batch": 1}, {"max_batch": 3})
    """Settings that cut a batch into other passes."""
    refused: Sequence[Mapping[str, Any]] = ({"max_batch": 0},)
    """Values that are not allowed."""
    weights: str = "model.safetensors"
    """The file of the weights."""
    needed: tuple[str, str] | None = None
    """A weight without which nothing works, and what is said then; None for TorchScript."""
    model_type: str | None = None
    """What config.json must say, in the words of the message; None without such a file."""
    beside: Sequence[str] = ()
    """Beginnings of the names of files beside the weights; it does not load without any of them."""
    empty: bool = True
    """Whether no rows are answered by no answers."""
    kept: str = ""
    """Class of a part that a cache of its library keeps alive, until another takes its place."""


@dataclass(frozen=True)
class Saved:
    """A case whose checkpoint is on disk."""

    case: Case
    folder: Path
    settings: Any
    whole: Sequence[Any] = field(default_factory=list)
    """The answers of all rows at once, on the CPU in float32."""

    def copied(self, folder: Path) -> Any:
        """Settings of the same checkpoint in another folder, into which it is copied."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return self.at(folder)

    def at(self, folder: Path) -> Any:
        """The same settings with all their paths in another folder."""
        own = {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}
        paths = {k: v for k, v in own.items() if str(v).startswith(str(self.folder))}
        moved = {k: v.replace(str(self.folder), str(folder)) for k, v in paths.items()}
        return replace(self.settings, **moved)


def refuses(settings: Any, *words: str) -> None:
    """It is not loaded; one line says why and names the checkpoint."""
    with pytest.raises(CheckpointError) as caught:
        settings.load(Device())
    said = str(caught.value)
    assert "\n" not in said
    assert settings.model in said
    for word in words:
        assert word in said


def without(path: Path, key: str) -> None:
    """Leave one weight out of a file."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        weights = load_file(path)
        del weights[key]
        save_file(weights, path, {"format": "pt"})
        return
    content = torch.load(path, weights_only=True)
    del content.get("model", content)[key]
    torch.save(content, path)


def networks() -> list[torch.nn.Module]:
    """All that are alive."""
    gc.collect()
    return [one for one in gc.get_objects() if issubclass(type(one), torch.nn.Module)]


class Contract:
    """The questions; a class derived from it parametrises `case`."""

    @pytest.fixture(scope="class")
    @classmethod
    def saved(cls, case, tmp_path_factory):
        folder = tmp_path_factory.mktemp(case.name)
        settings = case.backend(**case.save(folder))
        model = settings.load(Device())
        whole = case.ask(model, range(len(IMAGES)))
        model.close()
        return Saved(case, folder, settings, whole)

    def test_neither_the_batch_nor_its_cuts_change_an_answer(self, saved):
        ask, same, rows = saved.case.ask, saved.case.same, range(len(IMAGES))
        model = saved.settings.load(Device())
        for k in rows:
            (alone,) = ask(model, [k])
            same(alone, saved.whole[k])
        if saved.case.empty:
            assert list(ask(model, [])) == []
        for cut in saved.case.cuts:
            cut_model = replace(saved.settings, **cut).load(Device())
            for one, other in zip(ask(cut_model, rows), saved.whole, strict=True):
                same(one, other)

    def test_half_precision_is_near(self, saved):
        model = saved.settings.load(Device(dtype="bfloat16"))
        rough = saved.case.ask(model, range(len(IMAGES)))
        for one, other in zip(rough, saved.whole, strict=True):
            saved.case.near(one, other)

    def test_a_gpu_that_is_not_there_is_refused(self, saved, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ValueError, match="asks for cuda"):
            saved.settings.load(Device("cuda"))

    def test_closing_frees_the_networks_and_is_safe_twice(self, saved):
        before = networks()  # held, so that no other object gets one of their ids
        known = set(map(id, before))
        model = saved.settings.load(Device())
        saved.case.ask(model, [0])
        assert {id(one) for one in networks()} > known
        model.close()
        model.close()
        left = [one for one in networks() if id(one) not in known]
        kept = [one for one in left if type(one).__name__ == saved.case.kept]
        assert len(kept) == bool(saved.case.kept)
        assert len(left) == sum(len(list(one.modules())) for one in kept)

    def test_what_is_downloaded_is_enough(self, saved, tmp_path):
        """Of its folders, only what the patterns name; and the files that settings name."""
        settings = saved.at(tmp_path)
        named = {str(getattr(settings, f.name)) for f in fields(settings)}
        for path in filter(Path.is_file, saved.folder.rglob("*")):
            there = tmp_path / path.relative_to(saved.folder)
            if str(there) in named or any(
                fnmatch(str(there.relative_to(checkpoint.model)), pattern)
                for checkpoint in settings.checkpoints()
                if there.is_relative_to(checkpoint.model)
                for pattern in checkpoint.patterns
            ):
                there.parent.mkdir(exist_ok=True)
                shutil.copy(path, there)
        (answer,) = saved.case.ask(settings.load(Device()), [0])
        saved.case.same(answer, saved.whole[0])

    def test_weights_that_will_not_do(self, saved, tmp_path):
        none = tmp_path / f"none{Path(saved.settings.model).suffix}"
        refuses(replace(saved.settings, model=str(none)), "no ", f" at {none}")
        settings = saved.copied(tmp_path / "copy")
        path = tmp_path / "copy" / saved.case.weights
        whole = path.read_bytes()
        page = b"<!DOCTYPE html>\n<p>Sign in</p>\n"
        for content in (page, b"", whole[: len(whole) // 2]):
            path.write_bytes(content)
            refuses(settings)
        if saved.case.needed is not None:
            path.write_bytes(whole)
            key, said = saved.case.needed
            without(path, key)
            refuses(settings, said)
        path.unlink()
        refuses(settings)

    def test_a_folder_that_will_not_do(self, saved, tmp_path):
        for name in saved.case.beside:
            settings = saved.copied(tmp_path / name)
            gone = list((tmp_path / name).glob(f"{name}*"))
            assert gone
            for path in gone:
                path.unlink()
            refuses(settings)
        if saved.case.model_type is not None:
            settings = saved.copied(tmp_path)
            config = json.loads((tmp_path / "config.json").read_text())
            assert config["model_type"] in saved.case.model_type.split(" or ")
            (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
            refuses(settings, f"type 'bert'; {saved.case.model_type} is needed")
            (tmp_path / "config.json").unlink()
            refuses(settings, "no config.json")

    def test_settings_are_frozen_and_plain(self, case):
        adapter = TypeAdapter(case.backend)
        hub = "revision" in {f.name for f in fields(case.backend)}
        given = {"model": "a/b", "revision": "v1"} if hub else {"model": "/a.pth"}
        one = adapter.validate_python(given)
        assert isinstance(one, BackendSettings)
        assert isinstance(one, HasCheckpoints)
        assert str(one.checkpoints()[0]) == ("a/b@v1" if hub else "/a.pth")
        assert hub or one.checkpoints()[0].source
        assert pickle.loads(pickle.dumps(one)) == one
        assert adapter.validate_json(adapter.dump_json(one)) == one
        assert hash(one) == hash(adapter.validate_python(given))
        with pytest.raises(FrozenInstanceError):
            one.model = "c/d"
        for wrong in ({"modle": "a/b"}, {"name": "other"}, *case.refused):
            with pytest.raises(ValidationError):
                adapter.validate_python(wrong)


def boxes_near(one, other, *, pixels, score):
    """Two lists of detections with the same names, in any order: noise may exchange two of them."""
    key = lambda d: (d[0], [round(v, 1) for v in d[1]], d[2])  # noqa: E731
    flat = [
        sorted(((n, d.box, s) for d in found for n, s in d.names.items()), key=key)
        for found in (one, other)
    ]
    assert len(flat[0]) == len(flat[1])
    for (name, box, own), (other_name, other_box, other_score) in zip(*flat, strict=True):
        assert name == other_name
        assert box == pytest.approx(other_box, abs=pixels)
        assert own == pytest.approx(other_score, abs=score)


def masks_near(one, other, *, flips):
    """Two lists of masks that differ in at most this share of their pixels."""
    assert [mask.shape for mask in one] == [mask.shape for mask in other]
    for mask, expected in zip(one, other, strict=True):
        assert np.mean(mask != expected) <= flips


def bytes_near(one, other):
    """Images that differ by a grey level: a value at the middle may round either way."""
    assert np.abs(one.astype(int) - other).max() <= 1


def rows(ask: str, *given: Sequence[Any]) -> Callable[[Any, Sequence[int]], Sequence[Any]]:
    """Asks a model's method `ask` for rows of these columns."""
    return lambda model, chosen: getattr(model, ask)(*([c[k] for k in chosen] for c in given))
