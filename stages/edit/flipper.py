"""Mirror the image and swap the sides in the answer (position flip of MVC, arXiv 2502.13928)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schemas.records import Candidate, Contrast, Drop, Kind, Reason, Seed
from stages import wording
from stages.base import RecordStage
from stages.pixels import decode, encode_pair


@dataclass(frozen=True)
class Flipper(RecordStage[Seed, Candidate]):
    """Mirror the image left to right, and "left" and "right" in the answer.

    Drops answers without a side, answers whose side words may mean something else or that stay true
    in the mirror ("left and right"), prompts that name a side themselves, and things annotated in
    both halves.
    """

    def process_one(self, record: Seed) -> Sequence[Candidate] | Drop:
        """The mirrored candidate, or why there is none."""
        asked = wording.read_sides(record.prompt)
        if asked.sides or asked.doubt:
            word = asked.sides[0].text if asked.sides else asked.doubt
            return Drop(Reason.SIDE_IN_PROMPT, f"the prompt names a side: {word}")
        reading = wording.read_sides(record.chosen)
        if reading.doubt:
            return Drop(Reason.NO_SIDE_WORD, reading.doubt)
        if not reading.sides:
            return Drop(Reason.NO_SIDE_WORD, "the answer names no side")
        both = _on_both_sides(record, reading)
        if both is not None:
            return Drop(Reason.AMBIGUOUS_REGION, f'"{both}" is annotated in both halves')
        mirrored = np.ascontiguousarray(decode(record.image)[:, ::-1])
        chosen_image, rejected_image = encode_pair(record.image, mirrored)
        words = dict.fromkeys(side.lower for side in reading.sides)
        return [
            Candidate(
                seed=record,
                contrast=Contrast(
                    kind=Kind.POSITION,
                    target=" and ".join(words),
                    replacement=" and ".join(wording.OPPOSITE[word] for word in words),
                    instruction="mirror the image left to right",
                ),
                regions=(),
                chosen_image=chosen_image,
                rejected_image=rejected_image,
                counterfactual=wording.mirror_sides(record.chosen, reading.sides),
                params={"axis": "horizontal"},
            )
        ]


def _on_both_sides(seed: Seed, reading: wording.SideReading) -> str | None:
    """A label that the answer places on one side and that is annotated in both halves."""
    middle = seed.width / 2
    clauses = [wording.side_clause(seed.chosen, side) for side in reading.sides]
    for region in seed.regions:
        head = wording.head_noun(region.label)
        if not any(wording.find_mentions(clause, region.label) for clause in clauses):
            continue
        halves = {
            (other.box.x0 + other.box.x1) / 2 < middle
            for other in seed.regions
            if wording.same_noun(wording.head_noun(other.label), head)
        }
        if len(halves) > 1:
            return region.label
    return None
