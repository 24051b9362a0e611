from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from pipeline.errors import UsageError
from pipeline.recipes.build import STAGES, load_recipe, shipped_recipes
from schemas.records import SeedRef, SpannedCandidate
from stages.decide.double_threshold import Limits

SHIPPED = list(shipped_recipes())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_a_whole_chain(name):
    book = load_recipe(name)
    assert book.name == name
    assert book.about.endswith(".")
    for recipe in book.recipes:
        assert recipe.links[0].stage.consumes is SeedRef
        assert recipe.links[-1].stage.produces is SpannedCandidate


CPU_RECIPES = ["count-cpu", "crop", "flip", "recolor-cpu", "removal-cpu"]


def test_the_demo_mixes_the_recipes_without_models():
    assert sorted(recipe.name for recipe in load_recipe("demo").recipes) == CPU_RECIPES
    assert {*CPU_RECIPES, "mvc", "retrieval"} <= set(SHIPPED)


def test_a_group_of_settings_keeps_the_defaults_of_the_stage():
    plain = load_recipe("mvc").recipes[0].settings
    changed = load_recipe("mvc", ["chat_verifier.sampling.temperature=0.9"]).recipes[0].settings
    (before,) = (s["sampling"] for s in plain if s["stage"] == "chat_verifier")
    (after,) = (s["sampling"] for s in changed if s["stage"] == "chat_verifier")
    assert after == {**before, "temperature": 0.9}


CHAIN = {
    "loader": {"max_side": 512},
    "cropper": {},
    "embedder": {},
    "locality_check": {},
    "masker": {},
}


def written(folder: Path, stages: object = CHAIN, name: str = "mine", **more: object) -> str:
    """A recipe file of the user's."""
    path = folder / f"{name}.yaml"
    content = {"name": name, "about": "Mine.", "stages": stages, **more}
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)


def refused(name: str, *words: str, overrides: tuple[str, ...] = ()) -> None:
    """Loading says all these words, in one line."""
    with pytest.raises(UsageError) as caught:
        load_recipe(name, overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_a_recipe_of_the_users(tmp_path):
    book = load_recipe(written(tmp_path, shard_size=7))
    (recipe,) = book.recipes
    assert (book.name, book.shard_size) == ("mine", 7)
    assert [link.name for link in recipe.links] == list(CHAIN)
    assert recipe.links[0].stage.max_side == 512
    assert recipe.links[2].stage.detail.name == "gradient_grid"


def test_a_mix_of_shipped_recipes_and_files(tmp_path):
    own = written(tmp_path)
    path = written(tmp_path, None, "both", mix=["flip", own])
    assert [recipe.name for recipe in load_recipe(path).recipes] == ["flip", "mine"]


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (
            CHAIN | {"cropp": {}},
            ["unknown stage 'cropp'; did you mean cropper? known are loader, "],
        ),
        (
            CHAIN | {"cropper": {"min_are": 0.1}},
            ["cropper: unknown key 'min_are'; did you mean min_area? known are "],
        ),
        (CHAIN | {"cropper": {"min_area": "much"}}, ["cropper: min_area", "'much'"]),
        (CHAIN | {"cropper": {"min_area": 1.5}}, ["cropper: min_area", "less than or equal to 1"]),
        (CHAIN | {"cropper": {"attempts": 2.5}}, ["cropper: attempts", "integer", "2.5"]),
        (
            CHAIN | {"cropper": {"min_area": 0.5, "max_area": 0.1}},
            ["cropper", "min_area 0.5 is above max_area 0.1"],
        ),
        (
            CHAIN | {"embedder": {"detail": "dino"}},
            ["embedder.detail", "unknown backend 'dino'; did you mean dinov2?", "gradient_grid"],
        ),
        (
            CHAIN | {"embedder": {"detail": 3}},
            ["embedder.detail", "3 is neither a backend's name nor its settings"],
        ),
        (
            CHAIN | {"embedder": {"detail": {"name": "gradient_grid", "colour": 1}}},
            ["embedder.detail", "unknown key 'colour'; known are name, "],
        ),
        (
            {"loader": {}, "embedder": {}, "masker": {}},
            ["embedder consumes Candidate, but loader before it produces Seed"],
        ),
        (
            {"cropper": {}, "masker": {}},
            ["cropper consumes Seed, but the input before it produces SeedRef"],
        ),
        (
            {"loader": {}, "cropper": {}, "embedder": {}},
            ["ends with embedder, which produces ScoredCandidate", "must end with masker"],
        ),
        ({}, ["has no stages"]),
        (["loader"], ["stages"]),
        ({"loader": 3}, ["stages.loader", "(got 3)"]),
    ],
)
def test_a_wrong_chain_is_refused(tmp_path, stages, words):
    refused(written(tmp_path, stages), "recipe", *words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"shard_sise": 3}, ["mine.yaml", "unknown key 'shard_sise'; did you mean shard_size?"]),
        ({"shard_size": 0}, ["mine.yaml", "shard_size", "greater than or equal to 1"]),
        ({"about": None}, ["mine.yaml", "about", "required"]),
        ({"mix": ["flip"]}, ["mine.yaml", "either stages or mix"]),
        ({"stages": None}, ["mine.yaml", "either stages or mix"]),
        ({"stages": None, "mix": ["flop"]}, ["unknown recipe 'flop'; did you mean flip?"]),
        ({"stages": None, "mix": ["demo"]}, ["demo", "a mix may not name a mix"]),
        ({"stages": None, "mix": []}, ["mine.yaml", "mix"]),
        ({"stages": None, "mix": ["flip", "flip"]}, ["mine.yaml", "flip", "twice"]),
    ],
)
def test_a_wrong_recipe_file_is_refused(tmp_path, more, words):
    refused(written(tmp_path, **more), *words)


def test_a_file_that_is_no_recipe_is_refused(tmp_path):
    refused("no-such", "unknown recipe 'no-such'", *SHIPPED, ".yaml file")
    refused(str(tmp_path / "none.yaml"), "none.yaml", "does not exist")
    refused(str(tmp_path), "unknown recipe")
    (tmp_path / "folder.yaml").mkdir()
    refused(str(tmp_path / "folder.yaml"), "folder.yaml")
    for content in (b"- a\n- b\n", b"", b"7"):
        (tmp_path / "list.yaml").write_bytes(content)
        refused(str(tmp_path / "list.yaml"), "list.yaml", "must hold a mapping")
    for content in (b"name: [", b"\xff\xfe\x00a", b"name: a\nname\n"):
        (tmp_path / "broken.yaml").write_bytes(content)
        refused(str(tmp_path / "broken.yaml"), "broken.yaml", "not valid YAML")


def test_a_key_given_twice_is_refused(tmp_path):
    """YAML parsers take the last one without a word: half of the recipe would be ignored."""
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nabout: b\nstages:\n  loader: {}\n  loader: {max_side: 64}\n")
    refused(str(path), "twice.yaml", "loader", "twice")


def setting(book, recipe, stage, *path):
    (found,) = [r for r in book.recipes if r.name == recipe]
    (value,) = [s for s in found.settings if s["stage"] == stage]
    for key in path:
        value = value[key]
    return value


def test_set_reaches_a_setting_of_a_stage():
    book = load_recipe("crop", ["cropper.min_area=0.1", "loader.max_side=256"])
    assert setting(book, "crop", "cropper", "min_area") == 0.1
    assert setting(book, "crop", "loader", "max_side") == 256
    # Also of a key that the file does not spell out, and the last one counts.
    book = load_recipe("crop", ["cropper.attempts=3", "cropper.attempts=4"])
    assert setting(book, "crop", "cropper", "attempts") == 4


def test_set_reaches_a_backend():
    book = load_recipe("removal-cpu", ["inpainter.backend=telea", "inpainter.backend.radius=9"])
    assert setting(book, "removal-cpu", "inpainter", "backend") == {"name": "telea", "radius": 9.0}
    book = load_recipe("removal-cpu", ["inpainter.backend.rounds=3"])
    assert setting(book, "removal-cpu", "inpainter", "backend", "name") == "patchmatch"
    assert setting(book, "removal-cpu", "inpainter", "backend", "rounds") == 3
    book = load_recipe("removal-cpu", ["segmenter.backend=null"])
    assert setting(book, "removal-cpu", "segmenter", "backend") is None


def test_set_reaches_into_nested_settings():
    book = load_recipe("removal-cpu", ["double_threshold.limits.object.max_detail=0.5"])
    limits = setting(book, "removal-cpu", "double_threshold", "limits", "object")
    assert limits == {"min_appearance": 0.7, "max_detail": 0.5}


def test_set_in_a_mix_reaches_every_member_or_one():
    everywhere = load_recipe("demo", ["loader.max_side=256"])
    assert {setting(everywhere, r.name, "loader", "max_side") for r in everywhere.recipes} == {256}
    one = load_recipe("demo", ["flip.loader.max_side=256"])
    sizes = {r.name: setting(one, r.name, "loader", "max_side") for r in one.recipes}
    assert sizes.pop("flip") == 256
    assert set(sizes.values()) == {1024}
    # A stage that only some members have.
    some = load_recipe("demo", ["cropper.attempts=2"])
    assert setting(some, "crop", "cropper", "attempts") == 2


def test_set_of_the_shard_size():
    assert load_recipe("crop", ["shard_size=64"]).shard_size == 64
    assert load_recipe("demo", ["shard_size=64"]).shard_size == 64


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("crop", "shard_size", ["--set shard_size", "key=value"]),
        ("crop", "=3", ["key=value"]),
        ("crop", "cropper..min_area=1", ["key=value"]),
        ("crop", "cropper.min_area=[", ["cropper.min_area=[", "not YAML"]),
        (
            "crop",
            "segmenter.band=1",
            ["segmenter.band=1", "unknown key or stage of recipe crop 'segmenter'", "cropper"],
        ),
        ("crop", "cropper=1", ["cropper=1", "write it as cropper.KEY=VALUE"]),
        ("crop", "name=other", ["name=other", "'name'; known are shard_size, loader, "]),
        ("crop", "cropper.min_are=1", ["crop: cropper", "did you mean min_area?"]),
        ("crop", "cropper.min_area=2", ["cropper: min_area", "less than or equal to 1", "2"]),
        ("crop", "cropper.min_area.x=2", ["cropper: min_area"]),
        ("crop", "loader.max_side.x=2", ["loader.max_side.x=2", "max_side is 1024"]),
        ("crop", "shard_size=many", ["shard_size", "'many'"]),
        ("crop", "shard_size.x=1", ["shard_size.x=1", "write it as shard_size=N"]),
        (
            "demo",
            "flop.loader.max_side=1",
            ["flop.loader.max_side=1", "did you mean flip?", "removal-cpu"],
        ),
        ("removal-cpu", "inpainter.backend=magic", ["inpainter.backend", "'magic'", "telea"]),
        ("removal-cpu", "inpainter.backend=null", ["inpainter: backend", "BackendSettings"]),
        (
            "removal-cpu",
            "double_threshold.limits.thing.max_detail=0.1",
            ["double_threshold", "thing"],
        ),
    ],
)
def test_a_wrong_set_is_refused(name, text, words):
    refused(name, *words, overrides=(text,))


def test_the_digest_follows_what_decides_a_row():
    plain = load_recipe("crop").digest
    assert load_recipe("crop").digest == plain
    assert load_recipe("crop", ["shard_size=3"]).digest == plain
    assert load_recipe("crop", ["cropper.min_area=0.02"]).digest != plain
    assert load_recipe("flip").digest != plain
    # A default written out is the same recipe.
    assert load_recipe("crop", ["cropper.min_area=0.01"]).digest == plain


def test_comments_order_of_keys_and_about_do_not_change_the_digest(tmp_path):
    stages = CHAIN | {"cropper": {"min_area": 0.1, "attempts": 3}}
    path = written(tmp_path, stages)
    digest = load_recipe(path).digest
    turned = CHAIN | {"cropper": {"attempts": 3, "min_area": 0.1}}
    written(tmp_path, turned, about="Otherwise.", shard_size=5)
    assert load_recipe(path).digest == digest
    Path(path).write_text("# A word.\n" + Path(path).read_text().replace("0.1", "0.10  # share"))
    assert load_recipe(path).digest == digest
    written(tmp_path, CHAIN)
    assert load_recipe(path).digest != digest


def scalar_settings():
    """Every number and switch of the shipped chains once: dotted key -> (recipe, value)."""
    found = {}
    for name in SHIPPED:
        for recipe in load_recipe(name).recipes:
            for stage in recipe.settings:
                values = {key: value for key, value in stage.items() if key != "stage"}
                for key, value in flat(values):
                    if isinstance(value, int | float):
                        found.setdefault(f"{stage['stage']}.{key}", (name, value))
    return found


def flat(values):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", v) for inner, v in flat(value))
        else:
            yield key, value


def test_every_setting_changes_the_digest():
    settings = scalar_settings()
    plain = {name: load_recipe(name).digest for name in SHIPPED}
    for key, (name, value) in settings.items():
        other = (not value) if isinstance(value, bool) else None
        others = [value + 1, value * 0.9, value - 1, value + 16]  # sides are multiples of 16
        for candidate in others if other is None else [other]:
            try:
                changed = load_recipe(name, [f"{key}={str(candidate).lower()}"])
            except UsageError:  # out of the setting's range, or of its type
                continue
            assert changed.digest != plain[name], key
            break
        else:
            raise AssertionError(f"no other value of {key} is allowed")
    assert len(settings) > 30


def classes():
    """Every class whose fields are settings, as they stand in recipes."""
    for choice in STAGES.values():
        yield choice.stage
        for backends in choice.backends.values():
            yield from backends


@pytest.mark.parametrize("cls", sorted(set(classes()), key=lambda c: c.__name__))
def test_every_setting_is_read_by_its_class(cls):
    """A field that no code reads is a switch that does nothing."""
    # It may share code with its sisters in a base class; a backend's are read by its model.
    own = [base for base in cls.__mro__ if base.__module__.startswith("stages.")]
    sources = [inspect.getsource(base) for base in own]
    if find_spec(model := f"{cls.__module__}_model"):
        sources.append(Path(find_spec(model).origin).read_text("utf-8"))
    read = {
        node.attr
        for source in sources
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node.value) in ("self", "settings", "self.settings")
    }
    dead = {f.name for f in fields(cls) if f.init} - read - DISCRIMINATOR - READ_BY_STAGES
    assert not dead, f"{cls.__name__} has settings that it never reads: {sorted(dead)}"


DISCRIMINATOR = {"name"}
"""Chooses among backends, in `pipeline.recipes.build`."""

READ_BY_STAGES = {"max_tokens"}
"""Part of the protocols of editors and painters: their stages hold texts against it."""


def test_the_limits_of_the_filter_are_read():
    source = inspect.getsource(inspect.getmodule(Limits))
    for field in fields(Limits):
        assert re.search(rf"limits\.{field.name}\b", source), field.name


@pytest.mark.parametrize("cls", sorted(set(classes()), key=lambda c: c.__name__))
def test_every_setting_is_explained(cls):
    """The meaning and unit of a setting stand under it."""
    assert is_dataclass(cls)
    (tree,) = ast.parse(inspect.getsource(cls)).body
    explained = {
        one.target.id
        for one, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(one, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    own = {node.target.id for node in tree.body if isinstance(node, ast.AnnAssign)}
    settings = {f.name for f in fields(cls) if f.init} & own
    assert settings <= explained, settings - explained
