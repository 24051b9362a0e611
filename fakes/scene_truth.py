"""What is true of synthetic scenes and of images made from them: facts, sentences, a register.

The register is a folder, so that stages in other processes can write what they painted and a chat
server can read it. An image is found again by what it looks like, whatever codec it went through.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image

from pipeline.demo.backgrounds import Background, paint_background
from pipeline.demo.scenes import COLORS, SHAPES, Scene, scene
from pipeline.demo.sentences import write_answers
from schemas.ids import content_id, row_seed
from stages.pixels import Pixels

NUMBERS = {"no": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_COLOR, _SHAPE = "|".join(COLORS), "|".join(SHAPES)
_THING = rf"({_COLOR}) ({_SHAPE})"
_LOOK = 40
"""Side of the small image by which one is known."""


@dataclass(frozen=True, order=True)
class Fact:
    """One shape that an image shows."""

    color: str
    shape: str
    cell: tuple[int, int]
    """Column and row of the 3 x 3 grid."""

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"


Facts = tuple[Fact, ...]


def facts_of(image: Scene) -> Facts:
    side = image.pixels.shape[0]
    found = []
    for thing in image.objects:
        color, shape = thing.label.split()
        x, y = (thing.box.x0 + thing.box.x1) / 2, (thing.box.y0 + thing.box.y1) / 2
        found.append(Fact(color, shape, (int(3 * x / side), int(3 * y / side))))
    return tuple(sorted(found))


def plate(seed: int, index: int, side: int) -> tuple[Background, Pixels]:
    """A scene's background without its shapes."""
    rng = np.random.default_rng(row_seed(seed, f"scene-{index}", "scene"))
    answers = write_answers(rng, tuple(COLORS), SHAPES)
    return answers.background, paint_background(rng, answers.background, side)


def claims(sentence: str) -> list[tuple[Any, ...]]:
    """What a sentence of `pipeline.demo.sentences` says, claim by claim."""
    text = sentence.lower().rstrip(".")
    if re.match("there (is|are) ", text):
        found = re.findall(rf"({'|'.join(NUMBERS)}) (?:({_COLOR}) )?({_SHAPE})e?s?", text)
        return [("count", color or None, shape, NUMBERS[n]) for n, color, shape in found]
    if " left" in text:
        sides = re.findall(r"\b(left|right)\b", text)
        things = re.findall(_THING, text)
        return [("side", *thing, side) for thing, side in zip(things, sides, strict=True)]
    if " lie on " in text:
        return [("shown", *thing) for thing in re.findall(_THING, text)]
    return [("color", s, c) for s, c in re.findall(rf"the ({_SHAPE}) is ({_COLOR})", text)]


def holds(sentence: str, facts: Facts) -> bool:
    """Whether a sentence is true of an image that shows these."""
    said = claims(sentence)
    assert said, sentence
    return all(_holds(claim, facts) for claim in said)


def _holds(claim: tuple[Any, ...], facts: Facts) -> bool:
    match claim:
        case ("count", None, shape, number):
            return sum(f.shape == shape for f in facts) == number
        case ("count", color, shape, number):
            return sum((f.color, f.shape) == (color, shape) for f in facts) == number
        case ("side", color, shape, side):
            column = {"left": 0, "right": 2}[side]
            return any(f.name == f"{color} {shape}" and f.cell[0] == column for f in facts)
        case ("shown", color, shape):
            return any(f.name == f"{color} {shape}" for f in facts)
        case ("color", shape, color):
            own = [f for f in facts if f.shape == shape]
            return bool(own) and all(f.color == color for f in own)
    raise AssertionError(claim)


def same_things(one: Facts, other: Facts) -> bool:
    """Whether two images show the same things, wherever they are."""
    return Counter(f.name for f in one) == Counter(f.name for f in other)


def look(image: Pixels | bytes) -> np.ndarray:
    """What an image is known by: float32 [n]."""
    if isinstance(image, bytes):
        with PIL.Image.open(io.BytesIO(image)) as opened:
            image = np.asarray(opened.convert("RGB"))
    small = cv2.resize(image, (_LOOK, _LOOK), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32).ravel()


@dataclass
class Register:
    """Images and what they show."""

    folder: Path
    _looks: list[np.ndarray] = field(default_factory=list)
    _notes: list[dict[str, Any]] = field(default_factory=list)
    _read: set[str] = field(default_factory=set)

    def add(self, image: Pixels, facts: Facts, **more: Any) -> None:
        """Note an image; `more` is whatever a test wants to know of it."""
        seen = look(image).astype(np.uint8)
        note = {"look": seen.tolist(), "facts": [asdict(f) for f in facts], **more}
        text = json.dumps(note)
        temporary = self.folder / f".{content_id(text)}"
        temporary.write_text(text)
        temporary.rename(self.folder / f"{content_id(text)}.json")

    def add_scenes(self, num: int, seed: int, side: int) -> None:
        for index in range(num):
            image = scene(seed, index, side)
            self.add(image.pixels, facts_of(image), index=index)

    def note(self, image: Pixels | bytes, index: int | None = None) -> dict[str, Any]:
        """The note of the image that looks most like this one; of one scene, where it is known.

        An editor's image that ends in a pair is not quite the one that was noted: what was taken
        for unchanged is the original's.
        """
        self._update()
        wanted = look(image)
        apart = [
            float(np.abs(seen - wanted).mean())
            if index is None or note.get("index") == index
            else math.inf
            for seen, note in zip(self._looks, self._notes, strict=True)
        ]
        best = int(np.argmin(apart))
        limit = 6 if index is None else 60
        assert apart[best] < limit, f"an unknown image, {apart[best]:.1f} levels from any other"
        return self._notes[best]

    def note_of(self, seed: int) -> dict[str, Any]:
        """The note of what was made from a seed."""
        self._update()
        return next(note for note in self._notes if note.get("seed") == seed)

    def facts(self, image: Pixels | bytes) -> Facts:
        return read_facts(self.note(image))

    def notes(self) -> Sequence[dict[str, Any]]:
        self._update()
        return self._notes

    def _update(self) -> None:
        for name in sorted(p.name for p in self.folder.glob("*.json")):
            if name not in self._read:
                note = json.loads((self.folder / name).read_text())
                self._looks.append(np.array(note.pop("look"), np.float32))
                self._notes.append(note)
                self._read.add(name)


def read_facts(note: dict[str, Any]) -> Facts:
    return tuple(Fact(f["color"], f["shape"], tuple(f["cell"])) for f in note["facts"])
