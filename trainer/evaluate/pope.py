"""Yes/no questions about objects, as POPE (arXiv 2305.10355) asks them, from pairs' regions.

POPE knows every object of an image; a pair knows what its contrast touched, and what its texts
speak of. So the sets differ in how sure their "no" is:

* `removed`: the object that a pair's rejected image lacks, asked of both images. Sure, because the
  edit was verified, and a model that does not look is right half the time;
* `random`, `popular`, `adversarial`: objects of other images, asked of the chosen image: any, the
  most frequent, those that most often occur with what is there. An object may be in the image and
  just not be annotated; words of the image's own texts are never asked for. Each "no" has a "yes"
  about an object of the same image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

from schemas.ids import row_seed
from schemas.records import Kind
from trainer.evaluate.intervals import Estimate, share
from trainer.losses.views import Images

_OF_OBJECTS = (Kind.OBJECT, Kind.ATTRIBUTE, Kind.COUNT)
"""Kinds whose regions are objects of the chosen image."""

_SINGULAR = frozenset({"atlas", "canvas", "christmas", "gas", "lens", "pancreas", "rhinoceros"})
_PLURAL = frozenset({"skis", "taxis", "menus"})
"""Exceptions to the rule that words in -us, -is and -ss are not plurals."""


class QuestionSet(StrEnum):
    """How a question's object was chosen."""

    REMOVED = "removed"
    RANDOM = "random"
    POPULAR = "popular"
    ADVERSARIAL = "adversarial"


@dataclass(frozen=True, slots=True)
class Scene:
    """What the questions are made from: a pair without its pixels."""

    pair_id: str
    """Which pair."""
    image: str
    """Which source image."""
    kind: str
    """Contrast kind."""
    replacement: str | None
    """What the target became, if anything."""
    labels: tuple[str, ...]
    """Labels of the pair's regions."""
    text: str
    """All that is said of the image: prompt and answers."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one image."""

    pair_id: str
    """Pair whose image is shown."""
    image: str
    """Source image, for the intervals."""
    shown: Images
    """CHOSEN or REJECTED."""
    thing: str
    """What is asked for."""
    prompt: str
    """The user's turn."""
    answer: bool
    """Whether it is there."""
    chosen_by: QuestionSet
    """How the object was chosen; a "yes" belongs to the set of its "no"."""


@dataclass(frozen=True, slots=True)
class PopeLine:
    """Scores of one set, "yes" being the positive class as in POPE."""

    chosen_by: str
    """Which set."""
    accuracy: Estimate
    """Share of right answers."""
    precision: float | None
    """Share of "yes" that are right; None where none was said."""
    recall: float
    """Share of what is there that was found."""
    f1: float | None
    """Their harmonic mean."""
    yes_ratio: float
    """Share of "yes" among the answers; one half is right."""


@dataclass
class _Image:
    """A source image with all that its pairs know of it."""

    pair_id: str
    things: set[str] = field(default_factory=set)
    words: set[str] = field(default_factory=set)


def questions(scenes: Sequence[Scene], seed: int = 0, per_image: int = 3) -> list[Question]:
    """Questions about the scenes, at most `per_image` objects for each image and set.

    Deterministic: the order of the scenes matters only through which pair of an image is shown.
    """
    images = _images(scenes)
    found = [question for scene in scenes for question in _about_removal(scene)]
    frequency = Counter(thing for image in images.values() for thing in image.things)
    together: dict[str, Counter[str]] = defaultdict(Counter)
    for image in images.values():
        for one, other in permutations(sorted(image.things), 2):
            together[one][other] += 1
    for key, image in images.items():
        absent = [thing for thing in sorted(frequency) if not _known(thing, image)]
        present = sorted(image.things)
        generator = np.random.Generator(np.random.PCG64(row_seed(seed, key, "pope")))
        generator.shuffle(present)
        present = present[:per_image]
        drawn = list(absent)
        generator.shuffle(drawn)
        near = sum((together[thing] for thing in sorted(image.things)), Counter[str]())
        ranked = {
            QuestionSet.RANDOM: drawn,
            QuestionSet.POPULAR: sorted(absent, key=lambda t: (-frequency[t], t)),
            QuestionSet.ADVERSARIAL: sorted(absent, key=lambda t: (-near[t], -frequency[t], t)),
        }
        found += [
            Question(image.pair_id, key, Images.CHOSEN, thing, phrase(thing), answer, name)
            for name, order in ranked.items()
            for yes, no in zip(present, order, strict=False)
            for thing, answer in ((yes, True), (no, False))
        ]
    return found


def phrase(thing: str) -> str:
    """The question for a thing, as LLaVA-like models are used to hear it."""
    plural = _is_plural(thing)
    noun = thing if plural else _words().a(thing)
    return f"{'Are' if plural else 'Is'} there {noun} in the image? Please answer yes or no."


def score(asked: Sequence[Question], said_yes: Sequence[bool]) -> list[PopeLine]:
    """The scores of each set that has questions; `said_yes` in the order of the questions."""
    if len(asked) != len(said_yes):
        raise ValueError(f"{len(asked)} questions but {len(said_yes)} answers; give one each")
    number = {image: i for i, image in enumerate(dict.fromkeys(q.image for q in asked))}
    lines = []
    for name in QuestionSet:
        own = [(q, yes) for q, yes in zip(asked, said_yes, strict=True) if q.chosen_by is name]
        if not own:
            continue
        right = np.array([float(q.answer == yes) for q, yes in own])
        hits = sum(q.answer and yes for q, yes in own)
        said, there = sum(yes for _, yes in own), sum(q.answer for q, _ in own)
        precision, recall = hits / said if said else None, hits / there
        f1 = None if precision is None else _harmonic(precision, recall)
        accuracy = share(right, np.array([number[q.image] for q, _ in own]))
        lines.append(PopeLine(name, accuracy, precision, recall, f1, said / len(own)))
    return lines


def _about_removal(scene: Scene) -> Iterable[Question]:
    """What was removed, asked of both images; nothing where it became something of its kind."""
    if scene.kind != Kind.OBJECT or not scene.labels:
        return
    thing = _normal(scene.labels[0])
    if scene.replacement and _head(_normal(scene.replacement)) == _head(thing):
        return
    for shown, answer in ((Images.CHOSEN, True), (Images.REJECTED, False)):
        yield Question(
            scene.pair_id, scene.image, shown, thing, phrase(thing), answer, QuestionSet.REMOVED
        )


def _images(scenes: Sequence[Scene]) -> Mapping[str, _Image]:
    found: dict[str, _Image] = {}
    for scene in scenes:
        image = found.setdefault(scene.image, _Image(scene.pair_id))
        if scene.kind in _OF_OBJECTS:
            image.things |= {_normal(label) for label in scene.labels}
        # What replaced something is in the other image only, but no good "no" for this one either.
        said = f"{scene.text} {scene.replacement or ''} {' '.join(scene.labels)}"
        image.words |= {_singular(word) for word in _normal(said).split()}
    return found


def _known(thing: str, image: _Image) -> bool:
    """Whether the image has the thing, or its texts speak of one."""
    return _singular(_head(thing)) in image.words


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _normal(text: str) -> str:
    """Lower case, letters and digits only."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _head(thing: str) -> str:
    """The last word of a label: "stool" of "red stool"."""
    return thing.rsplit(maxsplit=1)[-1] if thing else thing


@cache
def _singular(word: str) -> str:
    # inflect takes any final s for a plural's: bus, iris, lens.
    if word in _SINGULAR or (word.endswith(("us", "is", "ss")) and word not in _PLURAL):
        return word
    return str(_words().singular_noun(word) or word)


def _is_plural(thing: str) -> bool:
    return _singular(_head(thing)) != _head(thing)


@cache
def _words() -> Any:
    import inflect  # noqa: PLC0415  0.3 s, for questions alone

    return inflect.engine()
