"""Edits images by instruction, and checks that only the intended part changed.

The sample editing of IC-VCO (arXiv 2605.31312): an edit "under reversible padding" and its check.
The paper does not say how it pads; `canvas.py` says how we do. Knows records, not models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from schemas.geometry import Box, Mask
from schemas.ids import row_seed
from schemas.records import Candidate, Drop, Image, Reason, Region
from schemas.texts import PlannedEdit
from stages.base import BackendSettings, Model, Stage
from stages.edit.blending import blended
from stages.edit.canvas import Canvas, Size, canvas_for, elongation
from stages.edit.drift import grown, held_together, similarity, tint, visible_change, without_tint
from stages.edit.registration import movement
from stages.language.chat import ChatBackend, Sampling
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import replies_to
from stages.language.votes import Ballot, Checker
from stages.pixels import Pixels, decode, encode_jpeg, encode_pair

BoolMask = NDArray[np.bool_]


@runtime_checkable
class EditorModel(Model, Protocol):
    """What edits images by instruction."""

    def sizes(self, max_elongation: float) -> list[Size]:
        """The sizes that it edits without resampling, none longer by shorter than this."""

    def count_tokens(self, instructions: Sequence[str]) -> list[int]:
        """Lengths of instructions, to be held against `max_tokens`."""

    def edit(
        self,
        images: Sequence[Pixels],
        instructions: Sequence[str],
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Pixels]]:
        """For each image one edit a seed, of the image's size, which is one of `sizes`.

        What comes of a (image, instruction, seed) does not depend on what else is asked for.
        """


@runtime_checkable
class EditorBackend(BackendSettings[EditorModel], Protocol):
    """Its settings."""

    @property
    def max_tokens(self) -> int:
        """Longest instruction that it reads to its end."""


@dataclass(frozen=True)
class Editor(Stage[PlannedEdit, Candidate]):
    """Carries out planned edits, undoes movement, and passes edits that changed one thing.

    The editor gets the image on a canvas that it does not resample. The result is registered to the
    original and compared with it. If the plan names a region, any change beyond it is drift. If
    not, the change itself becomes the region, and a change that spreads over most of the image is
    drift. Outside the region the original's pixels are kept.
    """

    backend: EditorBackend
    """The editing model."""
    candidates: Annotated[int, Ge(1), Le(16)] = 1
    """Edits drawn at once for each row; every good one is passed on, for a selector to choose."""
    attempts: Annotated[int, Ge(1), Le(20)] = 1
    """Most rounds of edits; only rows without a good edit get another round, with new seeds."""
    check: ChatBackend | None = None
    """A chat model that judges each edit, so that a bad one can be tried again. Without it every
    edit that changed one place passes, and the verifier at the end of the chain judges it once."""
    check_prompt: PromptField = field(default_factory=lambda: Prompt("verify_edit"))
    """What that model is told."""
    check_votes: Annotated[int, Ge(1)] = 1
    """Replies asked of it for each edit; more than half must be in favour."""
    check_sampling: Sampling = field(default_factory=Sampling)
    """How its replies are drawn; several votes need a temperature above 0."""
    max_elongation: Annotated[float, Ge(1), Le(10)] = 3.0
    """Longest side by shortest that is still edited; beyond it editors were not trained."""
    max_shift: Annotated[float, Ge(0), Le(0.2)] = 0.03
    """Farthest that a corner may have moved, as a share of the diagonal, to be moved back."""
    visible_delta: Annotated[float, Gt(0), Le(100)] = 10.0
    """CIE76 colour difference, after a blur, from which a place counts as changed."""
    min_change: Annotated[float, Gt(0), Le(1)] = 0.0005
    """Smallest share of the image that must have changed (in the region, where there is one)."""
    max_change: Annotated[float, Ge(0), Le(0.5)] = 0.5
    """Largest share of the image that may have changed; at most half, beyond which a change cannot
    be told from a shift of tint."""
    reach: Annotated[float, Ge(0), Le(2)] = 0.25
    """How far beyond an annotated region a change may reach, as a share of that region's diagonal:
    the new thing may have another shape than the old one."""
    max_outside: Annotated[float, Ge(0), Le(1)] = 0.002
    """Largest share of the image that may have changed beyond that."""
    max_tint: Annotated[float, Ge(0), Le(255)] = 20.0
    """Levels of 255 by which a channel of the whole image may have shifted; the shift is then
    removed."""
    min_similarity: Annotated[float, Ge(-1), Le(1)] = 0.5
    """Least structural similarity outside the change; below it, the background was repainted."""
    margin: Annotated[float, Ge(0), Le(0.1)] = 0.01
    """Margin around the change that is also taken from the edit, as a share of the diagonal."""
    composite: bool = True
    """Whether to keep the original's pixels outside the change. If not, the whole edit is taken,
    and the original is resampled as the edit was, so that neither is sharper than the other."""

    def __post_init__(self) -> None:
        """ValueError for settings that cannot work together."""
        self._checker()

    def process(self, batch: Sequence[PlannedEdit]) -> Sequence[Sequence[Candidate] | Drop]:
        """The good edits of each row, or why its last one was not."""
        canvases = self._canvases(batch)
        works = {
            i: _Work(batch[i], canvas, canvas.place(decode(batch[i].seed.image)))
            for i, canvas in enumerate(canvases)
            if isinstance(canvas, Canvas)
        }
        outcomes: dict[int, Sequence[Candidate] | Drop] = {
            i: drop for i, drop in enumerate(canvases) if isinstance(drop, Drop)
        }
        todo = list(works)
        for attempt in range(self.attempts):
            if not todo:
                break
            for i, tried in zip(todo, self._tried([works[i] for i in todo], attempt), strict=True):
                good = [one for one in tried if isinstance(one, Candidate)]
                outcomes[i] = good or self._last(tried, attempt)
            todo = [i for i in todo if isinstance(outcomes[i], Drop)]
        return [outcomes[i] for i in range(len(batch))]

    def _canvases(self, batch: Sequence[PlannedEdit]) -> list[Canvas | Drop]:
        """Where each image goes, or why it cannot be edited."""
        sizes = self.loaded(self.backend).sizes(self.max_elongation)
        lengths = self.loaded(self.backend).count_tokens(
            [record.contrast.instruction for record in batch]
        )
        found: list[Canvas | Drop] = []
        for record, length in zip(batch, lengths, strict=True):
            size = Size(record.seed.width, record.seed.height)
            if elongation(size) > self.max_elongation:
                found.append(
                    Drop(
                        Reason.EXTREME_ASPECT,
                        f"the image is {size}, {elongation(size):.2f} to 1; at most "
                        f"{self.max_elongation:g} to 1 is edited",
                    )
                )
            elif length > self.backend.max_tokens:
                found.append(
                    Drop(
                        Reason.TEXT_TOO_LONG,
                        f"the instruction takes {length} tokens, the editor reads "
                        f"{self.backend.max_tokens}",
                        record.contrast.instruction,
                    )
                )
            else:
                found.append(canvas_for(size, sizes))
        return found

    def _tried(self, works: Sequence[_Work], attempt: int) -> list[list[Candidate | Drop]]:
        """For each row its edits of this attempt, judged, and checked if there is who checks."""
        numbers = range(attempt * self.candidates, (attempt + 1) * self.candidates)
        seeds = [
            [row_seed(w.record.seed.run_seed, w.record.seed.seed_id, "editor", n) for n in numbers]
            for w in works
        ]
        edited = self.loaded(self.backend).edit(
            [work.placed for work in works],
            [work.record.contrast.instruction for work in works],
            seeds,
        )
        judged = [
            [self._judged(work, one, number) for number, one in zip(numbers, own, strict=True)]
            for work, own in zip(works, edited, strict=True)
        ]
        checker = self._checker()
        if checker is None or self.check is None:
            return judged
        asked = [one for own in judged for one in own if isinstance(one, Candidate)]
        replies = replies_to(
            self.loaded(self.check), [checker.requests(one, "editor", attempt) for one in asked]
        )
        ballots = (checker.ballot(one, own) for one, own in zip(asked, replies, strict=True))
        return [
            [one if isinstance(one, Drop) else _voted(one, next(ballots)) for one in own]
            for own in judged
        ]

    def _checker(self) -> Checker | None:
        if self.check is None:
            return None
        return Checker(self.check_prompt, self.check_sampling, self.check_votes, "edit")

    def _last(self, tried: Sequence[Candidate | Drop], attempt: int) -> Drop:
        """The last drop, with how many edits there were."""
        drop = tried[-1]
        assert isinstance(drop, Drop)
        num_edits = (attempt + 1) * self.candidates
        return (
            drop
            if num_edits == 1
            else replace(drop, detail=f"{drop.detail} (the last of {num_edits} edits)")
        )

    def _judged(self, work: _Work, edited: Pixels, number: int) -> Candidate | Drop:
        """The candidate that an edit makes, or what it did wrong."""
        moved = movement(work.placed, edited)
        farthest, most = moved.farthest(*work.canvas.size), math.hypot(*work.canvas.size)
        if farthest > self.max_shift * most:
            return Drop(
                Reason.DRIFTED,
                f"the image moved by {farthest / most:.2%} of its diagonal, at most "
                f"{self.max_shift:.2%}",
            )
        back = work.canvas.restore(moved.undone(edited, work.placed))
        # The original after the same resampling: remaining differences are the editor's.
        like = work.canvas.restore(work.placed)
        cast = tint(like, back)
        changed = visible_change(like, back, self.visible_delta)
        changed &= _inside(work.canvas.from_canvas(moved.kept(*work.canvas.size)), changed)
        reach = self._reach(work.record)
        meant = changed & reach
        area = held_together(meant, self.margin)
        found = _Findings(
            inside=float(meant.mean()),
            outside=float((changed & ~reach).mean()),
            similarity=similarity(like, back, ~area),
            tint=cast,
        )
        if wrong := self._misdeed(work.record, found):
            return wrong
        own = without_tint(back, cast) if self.composite else back
        return work.candidate(
            self._images(work.record, like, own, area),
            area,
            {
                "canvas": str(work.canvas),
                "moved": str(moved),
                "moved_confidence": f"{moved.confidence:.2f}",
                "attempt": str(number),
                **found.params(),
            },
        )

    def _reach(self, record: PlannedEdit) -> BoolMask:
        """Where the image may change: about the plan's regions, or anywhere."""
        seed = record.seed
        if not record.regions:
            return np.ones((seed.height, seed.width), dtype=bool)
        reach = np.zeros((seed.height, seed.width), dtype=bool)
        for region in record.regions:
            own = _inside(region.box, reach) if region.mask is None else region.mask.to_array()
            box = region.box
            further = self.reach * math.hypot(box.x1 - box.x0, box.y1 - box.y0)
            further += self.margin * math.hypot(seed.width, seed.height)
            reach |= grown(own, round(further))
        return reach

    def _misdeed(self, record: PlannedEdit, found: _Findings) -> Drop | None:
        """What is wrong with an edit, if anything: drift, or no visible change."""
        where = f"the {record.regions[0].label}" if record.regions else "the image"
        tinted = max(abs(level) for level in found.tint)
        if tinted > self.max_tint:
            return Drop(
                Reason.DRIFTED,
                f"the tint changed by {tinted:.0f} levels, at most {self.max_tint:g}",
            )
        if found.outside > self.max_outside:
            share = f"{found.outside:.2%} of the image changed beyond {where}"
            return Drop(Reason.DRIFTED, f"{share}, at most {self.max_outside:.2%}")
        if found.inside > self.max_change:
            share = f"{found.inside:.1%} of the image changed"
            return Drop(Reason.DRIFTED, f"{share}, at most {self.max_change:.1%}")
        if found.similarity < self.min_similarity:
            share = f"the rest of the image is similar by {found.similarity:.2f}"
            return Drop(Reason.DRIFTED, f"{share}, at least {self.min_similarity:g}")
        if found.inside < self.min_change:
            share = f"{found.inside:.3%} of the image changed"
            return Drop(Reason.NO_CHANGE, f"{share}, at least {self.min_change:.3%}")
        return None

    def _images(
        self, record: PlannedEdit, like: Pixels, edited: Pixels, area: BoolMask
    ) -> tuple[Image, Image]:
        """(chosen, rejected), encoded alike."""
        image = record.seed.image
        if not self.composite:
            return encode_jpeg(like, image.path), encode_jpeg(edited)
        feather = round(self.margin / 2 * math.hypot(*area.shape))
        return encode_pair(image, blended(decode(image), edited, area, feather))


@dataclass(frozen=True)
class _Work:
    """A row on its canvas."""

    record: PlannedEdit
    canvas: Canvas
    placed: Pixels

    def candidate(
        self, images: tuple[Image, Image], area: BoolMask, params: dict[str, str]
    ) -> Candidate:
        contrast = self.record.contrast
        return Candidate(
            seed=self.record.seed,
            contrast=contrast,
            regions=(Region(contrast.target, _bounds(area), Mask.from_array(area)),),
            chosen_image=images[0],
            rejected_image=images[1],
            counterfactual=self.record.counterfactual,
            params={**self.record.params, **params},
        )


@dataclass(frozen=True)
class _Findings:
    """Measurements of an edit; shares of the image, levels of 255."""

    inside: float
    outside: float
    similarity: float
    tint: NDArray[np.float32]

    def params(self) -> dict[str, str]:
        return {
            "changed": f"{self.inside:.4f}",
            "changed_beyond": f"{self.outside:.4f}",
            "similarity_elsewhere": f"{self.similarity:.3f}",
            "tint": ",".join(f"{level:g}" for level in self.tint),
        }


def _inside(box: Box, like: BoolMask) -> BoolMask:
    """True in the box; of the shape of `like`."""
    mask = np.zeros_like(like)
    x0, y0, x1, y1 = box.pixels(like.shape[1], like.shape[0])
    mask[y0:y1, x0:x1] = True
    return mask


def _voted(candidate: Candidate, ballot: Ballot) -> Candidate | Drop:
    if not ballot.accepted:
        return ballot.drop()
    return replace(candidate, params={**candidate.params, "check": ballot.detail})


def _bounds(area: BoolMask) -> Box:
    rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
    return Box(float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
