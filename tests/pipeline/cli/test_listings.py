"""What `recipes`, `settings` and `presets` print: everything there is, in words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Literal, get_args, get_type_hints

import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt, MinLen

from pipeline.cli.fields import keys
from pipeline.cli.listings import ELSEWHERE, list_presets, list_recipes, list_settings
from pipeline.errors import UsageError
from pipeline.recipes.build import load_recipe, shipped_recipes
from pipeline.recipes.table import STAGES
from schemas.names import keys_of, settings_in
from stages.base import OPERATIONAL
from trainer.losses import Loss
from trainer.settings import Settings, load_settings, presets
from trainer.settings import Source as SettingsSource

TRAINED = [Settings, *settings_in(Loss), *settings_in(get_type_hints(Settings)["tune"])]
BACKENDS = {
    b for choice in STAGES.values() for classes in choice.backends.values() for b in classes
}
CLASSES = {*(choice.stage for choice in STAGES.values()), *BACKENDS, *ELSEWHERE.values(), *TRAINED}


class Color(Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    depth: Annotated[int, Ge(1), Le(9)] = 3
    """How deep."""


@dataclass(frozen=True)
class Base:
    first: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Inherited."""


@dataclass(frozen=True)
class Example(Base):
    name: Literal["example"] = "example"
    """Chooses the class: no key to show."""
    needed: Annotated[list[str], MinLen(1)] = field(kw_only=True)
    """Must be
    given."""
    maybe: Color | Literal["x", "y"] | None = None
    """One of some."""
    speed: bool = field(default=True, metadata=OPERATIONAL)
    """Speed alone."""
    inner: Inner = field(default_factory=lambda: Inner(5))
    """More of them."""


def test_keys_in_words():
    found = [(k.name, k.kind, k.default, k.meaning, k.decides_rows) for k in keys(Example)]
    assert found == [
        ("first", "number above 0, below 1", "0.5", "Inherited.", True),
        ("needed", "list of text not empty", "required", "Must be given.", True),
        ("maybe", "red, x, y or null", "null", "One of some.", True),
        ("speed", "true or false", "true", "Speed alone.", False),
        ("inner", "settings", "as below", "More of them.", True),
        ("inner.depth", "whole number from 1 to 9", "5", "How deep.", True),
    ]


@pytest.mark.parametrize("cls", sorted(CLASSES, key=lambda c: c.__name__))
def test_every_key_has_a_meaning_and_a_kind(cls):
    found = list(keys(cls))
    for key in found:
        assert key.meaning, f"{cls.__name__}.{key.name} says nothing under its field"
        assert not re.search(
            r"Annotated|typing|<class|\[", key.kind.partition(" that matches ")[0]
        ), key
    assert {key.name.partition(".")[0] for key in found} >= set(keys_of(cls)) - {"name"}


def test_all_stages_and_all_of_a_stage():
    whole = list_settings(None, None, STAGES)
    for name, choice in STAGES.items():
        assert f"\n{name}\n" in f"\n{whole}"
        one = list_settings(name, None, STAGES)
        assert one.startswith(f"{name}: ")
        for field_name, backends in choice.backends.items():
            assert f"\n{field_name}: " in one
            for backend in backends:
                shown = list_settings(name, backend.name, STAGES)
                assert shown.startswith(f"{name} with {backend.name}: ")
    assert max(map(len, list_settings("detector", None, STAGES).splitlines())) <= 100


def test_what_is_no_stage():
    assert "\nshard_size: whole number from 1 to 100000; default 128\n" in list_settings(
        "recipe", None, STAGES
    )
    assert "color_layout" in list_settings("pairing", None, STAGES)
    assert "\ngroups.micro_batch: " in list_settings("placement", None, STAGES)
    assert "\noptimizer.learning_rate: number above 0; required\n" in list_settings(
        "train", None, STAGES
    )
    assert "\nrank: " in list_settings("train", "lora", STAGES)
    losses = list_settings("loss", None, STAGES)
    for cls in settings_in(Loss):
        (tag,) = get_args(get_type_hints(cls)["name"])
        assert f"\n{tag}\n" in f"\n{losses}"
        assert list_settings("loss", tag, STAGES).startswith(f"loss {tag}: ")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("detecter", None), "unknown stage 'detecter'; did you mean detector? known are loader, "),
        (("detector", "florenc"), "unknown backend of detector 'florenc'; did you mean florence?"),
        (("flipper", "x"), "unknown backend of flipper 'x'; there are none"),
        (("loss", "mdp"), "unknown loss 'mdp'; did you mean mdpo?"),
        (("train", "lara"), "unknown tune 'lara'; did you mean lora?"),
        (("placement", "x"), "has no backends"),
    ],
)
def test_an_unknown_name(asked, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        list_settings(*asked, STAGES)


def test_recipes():
    whole = list_recipes(None, STAGES)
    for name in shipped_recipes():
        book = load_recipe(name)
        assert book.kinds, f"{name}.yaml states no kinds"
        about, kinds = re.findall(rf"^{name}\n((?:    .*\n)+)", whole, re.MULTILINE)[0].rsplit(
            f"    {', '.join(book.kinds)}; ", 1
        )
        assert " ".join(about.split()) == book.about
        assert kinds.startswith("CPU only" if name.endswith("-cpu") else ("CPU", "needs"))
        shown = yaml.safe_load(list_recipes(name, STAGES).partition("\n\n")[2])
        for recipe in book.recipes:
            stages = (shown[recipe.name] if len(book.recipes) > 1 else shown)["stages"]
            assert list(stages) == [link.name for link in recipe.links]
    assert "a chat endpoint for planner, editor, chat_verifier" in " ".join(whole.split())


def test_presets():
    whole = list_presets(None)
    for name in presets():
        settings = load_settings(SettingsSource(name))
        assert f"\n{name}\n" in f"\n{whole}"
        shown = yaml.safe_load(list_presets(name).partition("\n\n")[2])
        assert Settings.model_validate(shown | {"about": settings.about}) == settings
