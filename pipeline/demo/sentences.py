"""Questions and answers about synthetic scenes: what to draw, and sentences that are true of it.

The sentences come first and the image follows them, so that they are true by construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.demo.backgrounds import Background


@dataclass(frozen=True)
class Thing:
    """One shape to draw."""

    color: str
    """Name of its colour."""
    shape: str
    """Name of its shape."""
    side: Literal["left", "right"] | None = None
    """Third of the image it has to lie in; None leaves it open."""


@dataclass(frozen=True)
class Answers:
    """What a scene shows and what is said about it."""

    background: Background
    """What the shapes lie on."""
    things: tuple[Thing, ...]
    """The shapes to draw."""
    prompt: str
    """A question."""
    chosen: str
    """A true answer."""
    rejected: str
    """A wrong answer."""


_NUMBERS = ("no", "one", "two", "three", "four", "five")


def write_answers(
    rng: np.random.Generator, colors: Sequence[str], shapes: Sequence[str]
) -> Answers:
    """Draw one of the four kinds of question, and its content."""
    kinds = tuple(Background)
    background = kinds[rng.integers(len(kinds))]
    # Distinct colours and distinct shapes: "the circle" and "the red one" are each unambiguous.
    hues = [str(c) for c in rng.permutation(colors)]
    forms = [str(s) for s in rng.permutation(shapes)]
    writer = (_colors, _counts, _sides, _plain)[rng.integers(4)]
    return writer(rng, background, hues, forms)


def _colors(
    rng: np.random.Generator, background: Background, hues: list[str], forms: list[str]
) -> Answers:
    num = int(rng.integers(1, 4))
    things = tuple(Thing(hues[i], forms[i]) for i in range(num))
    facts = [f"the {t.shape} is {t.color}" for t in things]
    wrong = [f"the {things[0].shape} is {hues[num]}", *facts[1:]]
    if num == 1:
        prompt = f"What colour is the {forms[0]}?"
    else:
        prompt = _pick(rng, ("What colours do the shapes have?", "Which shape has which colour?"))
    return Answers(background, things, prompt, _sentence(_join(facts)), _sentence(_join(wrong)))


def _counts(
    rng: np.random.Generator, background: Background, hues: list[str], forms: list[str]
) -> Answers:
    num_kinds = int(rng.integers(1, 3))
    counts = [int(rng.integers(1, 4)) for _ in range(num_kinds)]
    things = tuple(Thing(hues[i], forms[i]) for i, count in enumerate(counts) for _ in range(count))
    named = bool(rng.random() < 0.5)
    names = [f"{hues[i]} {forms[i]}" if named else forms[i] for i in range(num_kinds)]

    def said(numbers: Sequence[int]) -> str:
        parts = [
            f"{_NUMBERS[n]} {_plural(name, n)}" for n, name in zip(numbers, names, strict=True)
        ]
        verb = "is" if numbers[0] == 1 else "are"
        return f"There {verb} {_join(parts)}."

    wrong = [counts[0] + 1 if counts[0] == 1 or rng.random() < 0.5 else counts[0] - 1, *counts[1:]]
    prompt = _pick(rng, ("How many shapes of each kind are there?", "Count the shapes."))
    return Answers(background, things, prompt, said(counts), said(wrong))


def _sides(
    rng: np.random.Generator, background: Background, hues: list[str], forms: list[str]
) -> Answers:
    left, right = Thing(hues[0], forms[0], "left"), Thing(hues[1], forms[1], "right")
    names = [f"{t.color} {t.shape}" for t in (left, right)]
    prompt = _pick(rng, ("Where are the shapes?", "How are the shapes arranged?"))
    template = _pick(
        rng,
        (
            "{} is on the left and {} on the right.",
            "{} lies on the left side, {} on the right side.",
            "On the left there is {}, on the right there is {}.",
        ),
    )
    chosen, rejected = (
        _capital(template.format(*(_a(n) for n in order))) for order in (names, names[::-1])
    )
    return Answers(background, (left, right), prompt, chosen, rejected)


def _plain(
    rng: np.random.Generator, background: Background, hues: list[str], forms: list[str]
) -> Answers:
    num = int(rng.integers(2, 5))
    things = tuple(Thing(hues[i], forms[i]) for i in range(num))
    names = [_a(f"{t.color} {t.shape}") for t in things]
    wrong = [_a(f"{hues[num]} {forms[num]}"), *names[1:]]
    prompt = _pick(rng, ("Describe the image.", "What does the image show?", "What is there?"))
    chosen, rejected = (f"{_capital(_join(n))} lie on {background}." for n in (names, wrong))
    return Answers(background, things, prompt, chosen, rejected)


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _plural(name: str, number: int) -> str:
    if number == 1:
        return name
    return f"{name}es" if name.endswith("s") else f"{name}s"


def _join(parts: Sequence[str]) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _sentence(text: str) -> str:
    return _capital(text) + "."
