"""Models that know the truth about synthetic scenes, and fail as often as they are told to.

An editor and a painter of images, and a chat model for `fakes.chat_server`. What they paint they
note in a `Register`, so that every pair of a run can be held against the truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fakes.chat_server import Say, images, said, system_text
from fakes.scene_truth import (
    NUMBERS,
    Fact,
    Facts,
    Register,
    claims,
    facts_of,
    holds,
    plate,
    read_facts,
    same_things,
)
from pipeline.demo.backgrounds import Background, paint_background
from pipeline.demo.scenes import COLORS, SHAPES, _draw, scene
from pipeline.demo.sentences import Thing, _plural
from schemas.ids import row_seed
from stages.base import CpuBackend
from stages.edit.canvas import Size
from stages.pixels import Pixels

SIDE = 128


def draw(number: int, *what: object) -> float:
    """A number in [0, 1) for a seed and a purpose."""
    return row_seed(number, repr(what), "scene model") / 2**63


# Edits in words: what the scripted planner says and the editor reads.


def plan(chosen: str, rejected: str, facts: Facts) -> dict[str, Any] | None:
    """The edit after which `rejected` is true, as `stages.language.planner.EditPlan` has it."""
    right, wrong = claims(chosen), claims(rejected)
    differing = [(r, w) for r, w in zip(right, wrong, strict=True) if r != w]
    match differing[0]:
        case ("color", shape, old), ("color", _, new):
            return _plan("attribute", new, f"{old} {shape}", f"{new} {shape}",
                         f"Change the {old} {shape} into a {new} {shape}.", rejected)  # fmt: skip
        case ("shown", *old), ("shown", *new):
            one, other = " ".join(old), " ".join(new)
            return _plan("existence", other, one, other,
                         f"Change the {one} into a {other}.", rejected)  # fmt: skip
        case ("side", *old, _), ("side", *new, _):
            one, other = " ".join(old), " ".join(new)
            return _plan("relation", other, f"the {one} and the {other}", "each other's place",
                         f"Swap the {one} and the {other}.", rejected)  # fmt: skip
        case ("count", _, shape, old), ("count", _, _, new):
            name = next(f.name for f in facts if f.shape == shape)
            words = {number: word for word, number in NUMBERS.items()}
            what = f"Add one more {name}." if new > old else f"Remove one {name}."
            before, after = (f"{words[n]} {_plural(name, n)}" for n in (old, new))
            return _plan("existence", words[new], before, after, what, rejected)
    return None


def _plan(*words: str) -> dict[str, Any]:
    kind, quote, target, replacement, instruction, rejected = words
    return {
        "reason": "The answers differ there.",
        "possible": True,
        "hallucination": kind,
        "quote": quote,
        "target": target,
        "replacement": replacement,
        "instruction": instruction,
        "counterfactual": rejected,
    }


def carried_out(instruction: str, facts: Facts, pick: float) -> Facts | None:
    """What an image shows after an edit; None if it shows nothing that the edit speaks of.

    `pick` in [0, 1) chooses among several that fit, and a free place.
    """
    thing = rf"((?:{'|'.join(COLORS)}) (?:{'|'.join(SHAPES)}))"
    if found := re.fullmatch(rf"Change the {thing} into a {thing}\.", instruction):
        return _exchanged(facts, {found[1]: found[2]}, pick)
    if found := re.fullmatch(rf"Swap the {thing} and the {thing}\.", instruction):
        names = {f.name for f in facts}
        both = {found[1]: found[2], found[2]: found[1]}
        return tuple(_renamed(f, both) for f in facts) if set(both) <= names else None
    own = [f for f in facts if f.name == instruction.rstrip(".").split(" ", 2)[-1].strip()]
    if instruction.startswith("Remove one ") and own:
        gone = own[int(pick * len(own))]
        return tuple(f for f in facts if f is not gone)
    if found := re.fullmatch(rf"Add one more {thing}\.", instruction):
        taken = {f.cell for f in facts}
        free = [(k % 3, k // 3) for k in range(9) if (k % 3, k // 3) not in taken]
        color, shape = found[1].split()
        return (*facts, Fact(color, shape, free[int(pick * len(free))])) if free else None
    return None


def _exchanged(facts: Facts, names: dict[str, str], pick: float) -> Facts | None:
    own = [f for f in facts if f.name in names]
    if not own:
        return None
    changed = own[int(pick * len(own))]
    return tuple(_renamed(f, names) if f is changed else f for f in facts)


def _renamed(fact: Fact, names: dict[str, str]) -> Fact:
    color, shape = names.get(fact.name, fact.name).split()
    return replace(fact, color=color, shape=shape)


@dataclass(frozen=True)
class SceneEditor(CpuBackend):
    """Edits scenes by instruction; of all edits, these shares go wrong."""

    folder: str
    """Of the `Register`, which holds the scenes."""
    name: Literal["scene_editor"] = "scene_editor"
    scene_seed: int = 0
    nothing: float = 0.0
    """Comes back as it went, but for noise."""
    wrong: float = 0.0
    """Another thing than the one asked for is changed."""
    drifts: float = 0.0
    """The whole image moves, or is painted on another background."""
    max_tokens: int = 200

    def sizes(self, max_elongation: float) -> list[Size]:
        return [Size(SIDE, SIDE)]

    def count_tokens(self, instructions: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in instructions]

    def edit(
        self,
        images: Sequence[Pixels],
        instructions: Sequence[str],
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Pixels]]:
        register = Register(Path(self.folder))
        return [
            [self._edit(register, image, text, seed) for seed in own]
            for image, text, own in zip(images, instructions, seeds, strict=True)
        ]

    def _edit(self, register: Register, image: Pixels, instruction: str, seed: int) -> Pixels:
        note = register.note(image)
        index, facts = note["index"], read_facts(note)
        meant = carried_out(instruction, facts, draw(seed, "pick")) or facts
        fault = self._fault(seed)
        shown, back = facts, image
        if fault in ("", "drifts"):
            shown = meant
        elif fault == "wrong":
            shown = _mistaken(facts, meant, seed)
        edited = self._repainted(back, index, facts, shown, seed)
        if fault == "drifts":
            edited = _drifted(edited, seed)
        else:
            noise = np.random.default_rng(seed).normal(0, 1.5, edited.shape)
            edited = np.clip(edited + noise, 0, 255).astype(np.uint8)
        right = fault == "" and meant is not facts
        register.add(edited, shown, index=index, seed=seed, fault=fault, right=right)
        return edited

    def _fault(self, seed: int) -> str:
        at = draw(seed, "fault")
        for fault in ("nothing", "wrong", "drifts"):
            share = getattr(self, fault)
            if at < share:
                return fault
            at -= share
        return ""

    def _repainted(
        self, image: Pixels, index: int, before: Facts, after: Facts, seed: int
    ) -> Pixels:
        """The image with what differs painted anew; all else to the pixel as it was."""
        _, empty = plate(self.scene_seed, index, SIDE)
        canvas = image.copy()
        rng = np.random.default_rng(seed)
        cells = {f.cell: f for f in before}
        for fact in after:
            if cells.pop(fact.cell, None) != fact:
                _clear(canvas, empty, fact.cell)
                _draw(rng, canvas, Thing(fact.color, fact.shape), fact.cell)
        for cell in cells:
            _clear(canvas, empty, cell)
        return canvas


def _clear(canvas: Pixels, empty: Pixels, cell: tuple[int, int]) -> None:
    third = SIDE / 3
    x0, y0 = int(cell[0] * third), int(cell[1] * third)
    x1, y1 = int((cell[0] + 1) * third) + 1, int((cell[1] + 1) * third) + 1
    canvas[y0:y1, x0:x1] = empty[y0:y1, x0:x1]


def _mistaken(facts: Facts, meant: Facts, seed: int) -> Facts:
    """What is shown after a change, but of another thing, or of the right one into a third."""
    kept = [f for f in facts if f in meant]
    if not kept:
        return tuple(replace(f, color=_other_color(facts + meant, seed)) for f in facts)
    victim = kept[int(draw(seed, "victim") * len(kept))]
    changed = replace(victim, color=_other_color(facts + meant, seed))
    return tuple(changed if f is victim else f for f in facts)


def _other_color(facts: Facts, seed: int) -> str:
    free = [color for color in COLORS if color not in {f.color for f in facts}]
    return free[int(draw(seed, "color") * len(free))]


def _drifted(image: Pixels, seed: int) -> Pixels:
    if draw(seed, "drift") < 0.5:
        return np.roll(image, (9, -11), axis=(0, 1))
    rng = np.random.default_rng(seed)
    kinds = list(Background)
    other = paint_background(rng, kinds[seed % len(kinds)], SIDE)
    return (image // 3 + other // 3 * 2).astype(np.uint8)


@dataclass(frozen=True)
class ScenePainter(CpuBackend):
    """Paints the sentence it is given; a share of its images shows the original's things."""

    folder: str
    name: Literal["scene_painter"] = "scene_painter"
    disobeys: float = 0.0
    """Share of the images that show what the sentence does not say."""
    max_tokens: int = 200

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in descriptions]

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        assert size == (SIDE, SIDE)
        register = Register(Path(self.folder))
        return [
            self._paint(register, text, seed)
            for text, seed in zip(descriptions, seeds, strict=True)
        ]

    def _paint(self, register: Register, description: str, seed: int) -> Pixels:
        rng = np.random.default_rng(seed)
        things = things_for(description, seed)
        obeys = draw(seed, "obeys") >= self.disobeys
        if not obeys:
            things = [
                replace(t, color=list(COLORS)[(list(COLORS).index(t.color) + 3) % len(COLORS)])
                for t in things
            ]
        kinds = list(Background)
        canvas = paint_background(rng, kinds[seed % len(kinds)], SIDE)
        for fact in things:
            _draw(rng, canvas, Thing(fact.color, fact.shape), fact.cell)
        register.add(canvas, tuple(things), seed=seed, right=obeys)
        return canvas


def things_for(sentence: str, seed: int) -> list[Fact]:
    """Things of which a sentence is true, at places of their own."""
    order = np.random.default_rng(seed).permutation(9)
    cells = [(int(k) % 3, int(k) // 3) for k in order]
    named: list[tuple[str, str, str | None]] = []
    for i, claim in enumerate(claims(sentence)):
        match claim:
            case ("count", color, shape, number):
                named += [(color or list(COLORS)[i], shape, None)] * number
            case ("side", color, shape, side):
                named.append((color, shape, side))
            case ("shown", color, shape):
                named.append((color, shape, None))
            case ("color", shape, color):
                named.append((color, shape, None))
    found = []
    for color, shape, side in named:
        columns = {"left": (0,), "right": (2,), None: (0, 1, 2)}[side]
        cell = next(c for c in cells if c[0] in columns)
        cells.remove(cell)
        found.append(Fact(color, shape, cell))
    return found


@dataclass
class SceneChat:
    """A script for `ChatServer`: plans, samples, judges, describes and checks by the truth.

    A share of its votes lie: one that should object says all is well, and the other way round.
    """

    register: Register
    num: int
    """Scenes."""
    scene_seed: int = 0
    lies: float = 0.0
    """Share of the votes that lie."""
    samples: Callable[[int, int], str] | None = None
    """(scene's index, seed) to an answer, for a model that is sampled."""
    asked: dict[str, int] = field(default_factory=dict)
    """Requests by what was asked."""

    def __call__(self, payload: dict[str, Any]) -> Any:
        system = system_text(payload)
        for start, what in (
            ("You plan an edit", self._plan),
            ("You check a pair", self._check_pair),
            ("You check whether", self._check_image),
            ("You grade answers", self._grade),
            ("You write captions", self._describe),
        ):
            if system.startswith(start):
                self.asked[start] = self.asked.get(start, 0) + 1
                return what(payload)
        assert self.samples is not None, system
        return Say(self.samples(self._index(images(payload)[0]), payload["seed"]))

    def _index(self, image: bytes) -> int:
        return int(self.register.note(image)["index"])

    def _plan(self, payload: dict[str, Any]) -> Any:
        facts = self.register.facts(images(payload)[0])
        return plan(said(payload, "The true answer"), said(payload, "The wrong answer"), facts)

    def _check_pair(self, payload: dict[str, Any]) -> Any:
        original, edited = images(payload)
        before = self.register.note(original)
        after = self.register.note(edited, before["index"])
        first, second = read_facts(before), read_facts(after)
        instruction = said(payload, "The edit that was ordered")
        a, b = said(payload, "Statement A"), said(payload, "Statement B")
        # Any of several things may have been the one: only what is shown counts.
        meant = carried_out(instruction, first, 0.0)
        made = meant is not None and same_things(second, meant)
        moved = instruction.startswith("Swap") and made
        found = {
            "reason": f"{sorted(f.name for f in second)}",
            "change_made": _word(made and (moved or second != first)),
            "rest_kept": "no" if after.get("fault") == "drifts" else "yes" if made else "unsure",
            "a_of_first": _word(holds(a, first)),
            "a_of_second": _word(holds(a, second)),
            "b_of_first": _word(holds(b, first)),
            "b_of_second": _word(holds(b, second)),
        }
        good = {**found, "change_made": "yes", "rest_kept": "yes", "a_of_first": "yes",
                "a_of_second": "no", "b_of_first": "no", "b_of_second": "yes"}  # fmt: skip
        return self._perhaps_a_lie(found, good, {**good, "change_made": "no"}, payload)

    def _check_image(self, payload: dict[str, Any]) -> Any:
        facts = self.register.facts(images(payload)[0])
        a, b = said(payload, "Answer A"), said(payload, "Answer B")
        found = {"reason": "", "a_of_image": _word(holds(a, facts)),
                 "b_of_image": _word(holds(b, facts))}  # fmt: skip
        good = {"reason": "", "a_of_image": "no", "b_of_image": "yes"}
        return self._perhaps_a_lie(found, good, {**good, "a_of_image": "yes"}, payload)

    def _perhaps_a_lie(
        self,
        found: dict[str, str],
        good: dict[str, str],
        bad: dict[str, str],
        payload: dict[str, Any],
    ) -> dict[str, str]:
        if draw(payload["seed"], "lie") >= self.lies:
            return found
        is_good = {**found, "reason": "", "rest_kept": ""} == {
            **good,
            "reason": "",
            "rest_kept": "",
        }
        return bad if is_good else good

    def _grade(self, payload: dict[str, Any]) -> Any:
        answer, reference = (
            said(payload, "The answer to grade"),
            said(payload, "The reference answer"),
        )
        wrong = [claim for claim in claims(answer) if claim not in claims(reference)]
        return {"reason": "", "score": 1 if wrong else 10}

    def _describe(self, payload: dict[str, Any]) -> Any:
        depicted = said(payload, "The answer to depict")
        return {"difference": "what it says", "description": depicted}


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


def fallible_samples(num: int, scene_seed: int, right: float) -> Callable[[int, int], str]:
    """Answers of a model that is right so often, and else says the scene's wrong answer."""
    scenes = [scene(scene_seed, index, SIDE) for index in range(num)]
    assert all(facts_of(s) for s in scenes)

    def sample(index: int, seed: int) -> str:
        return scenes[index].chosen if draw(seed, "sample") < right else scenes[index].rejected

    return sample
