"""What an image shows, as tags that a detector can be asked for. Knows records, not models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from annotated_types import Ge, Le

from schemas.records import Drop, Reason, Seed, Tag, Tagged
from stages.base import BackendSettings, Model, Stage
from stages.locate.scene_tags import SCENE_TAGS
from stages.pixels import Pixels, decode


@runtime_checkable
class TaggerModel(Model, Protocol):
    """A model that names the things in images."""

    def tag(self, images: Sequence[Pixels]) -> list[list[tuple[str, float]]]:
        """Name and confidence in [0, 1] of what each uint8 [H, W, 3] RGB image shows."""


@dataclass(frozen=True)
class Tagger(Stage[Seed, Tagged]):
    """Tags of each image, without those that do not name a thing.

    AdaViP (arXiv 2504.15619) takes all of RAM's tags. But "sky" and "floor" leave holes that cannot
    be filled, and "sit" and "blue" give boxes around anything. A seed with annotated regions needs
    no tags: it is passed on with () and the model does not see it.
    """

    backend: BackendSettings[TaggerModel]
    """The tagging model."""
    stop: tuple[str, ...] = SCENE_TAGS
    """Tags to leave out, in any case of letters: scenes, qualities, actions."""
    min_score: Annotated[float, Ge(0), Le(1)] = 0.0
    """Least confidence of a tag, on top of the backend's own limit."""
    max_tags: Annotated[int, Ge(1)] = 30
    """Most tags of an image; the most confident are kept."""

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Tagged] | Drop]:
        """Each seed with its tags, most confident first, or NO_TAG; () where regions are annotated.

        Tags with equal scores keep the backend's order. ValueError for a score outside [0, 1].
        """
        asked = [k for k, seed in enumerate(batch) if not seed.regions]
        model = self.loaded(self.backend)
        given = model.tag([decode(batch[k].image) for k in asked]) if asked else []
        answers = dict(zip(asked, given, strict=True))
        stopped = frozenset(name.casefold() for name in self.stop)
        return [
            self._judged(seed, answers[k], stopped) if k in answers else [Tagged(seed, ())]
            for k, seed in enumerate(batch)
        ]

    def _judged(
        self, seed: Seed, found: Sequence[tuple[str, float]], stopped: frozenset[str]
    ) -> Sequence[Tagged] | Drop:
        for name, score in found:
            if not 0 <= score <= 1:
                raise ValueError(f'tag "{name}" has the score {score}; [0, 1] is expected')
        best: dict[str, Tag] = {}
        for name, score in sorted(found, key=lambda pair: -pair[1]):
            key = " ".join(name.split()).casefold()
            if key and key not in stopped and score >= self.min_score:
                best.setdefault(key, Tag(" ".join(name.split()), score))
        if not best:
            names = ", ".join(name for name, _ in found[:8]) or "none"
            return Drop(Reason.NO_TAG, f"no tag left of {len(found)} found: {names}")
        return [Tagged(seed, tuple(best.values())[: self.max_tags])]
