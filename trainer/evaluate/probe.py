"""The probe: whether an answer is likelier under the image that it is true of.

Four cells of a pair's table and no judge. `shown`: log p(chosen | chosen image) against
log p(chosen | rejected image); `mirrored`: the counterfactual, the other way round; `both`: the two
at once. The text is the same on both sides, so its length and fluency cancel, and a model that
does not look gets exactly one half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.evaluate.intervals import Estimate, mean, share
from trainer.losses.views import Answer, Images, View

SHOWN = View(Images.CHOSEN, Answer.CHOSEN)
SWAPPED = View(Images.REJECTED, Answer.CHOSEN)
MIRRORED_SHOWN = View(Images.REJECTED, Answer.COUNTERFACTUAL)
MIRRORED_SWAPPED = View(Images.CHOSEN, Answer.COUNTERFACTUAL)

ALL = "all"
"""Name of the line over all contrast kinds."""


@dataclass(frozen=True, slots=True)
class ProbeRow:
    """One pair's cells."""

    pair_id: str
    """Which pair."""
    image: str
    """Which source image; rows of one image are not independent."""
    kind: str
    """Contrast kind."""
    log_probs: Mapping[View, float]
    """`SHOWN` and `SWAPPED`, and both mirrored cells where the pair has a counterfactual; nats."""


@dataclass(frozen=True, slots=True)
class ProbeLine:
    """What the probe says of the pairs of one kind."""

    kind: str
    """Contrast kind, or `all`."""
    shown: Estimate
    """Share of pairs whose chosen answer is likelier under the chosen image; a tie counts half."""
    shown_margin: Estimate
    """By how many nats, on average."""
    mirrored: Estimate | None
    """Share of counterfactuals that are likelier under the rejected image."""
    mirrored_margin: Estimate | None
    """By how many nats, on average."""
    both: Estimate | None
    """Share of pairs with a counterfactual that are right in both ways; chance is below one half
    and depends on the model."""


def summarise(rows: Sequence[ProbeRow]) -> list[ProbeLine]:
    """One line over all rows, then one for each kind in alphabetical order."""
    if not rows:
        raise ValueError("the probe needs at least one pair, got none")
    number = {image: i for i, image in enumerate(dict.fromkeys(row.image for row in rows))}
    kinds = sorted({row.kind for row in rows})
    return [
        _line(ALL, rows, number),
        *(_line(kind, [row for row in rows if row.kind == kind], number) for kind in kinds),
    ]


def _line(kind: str, rows: Sequence[ProbeRow], number: Mapping[str, int]) -> ProbeLine:
    margin = _margins(rows, SHOWN, SWAPPED)
    images = np.array([number[row.image] for row in rows])
    shown, shown_margin = share(_hits(margin), images), mean(margin, images)
    with_mirror = [row for row in rows if MIRRORED_SHOWN in row.log_probs]
    if not with_mirror:
        return ProbeLine(kind, shown, shown_margin, None, None, None)
    images = np.array([number[row.image] for row in with_mirror])
    mirrored = _margins(with_mirror, MIRRORED_SHOWN, MIRRORED_SWAPPED)
    own = _margins(with_mirror, SHOWN, SWAPPED)
    both = np.minimum(_hits(own), _hits(mirrored))
    return ProbeLine(
        kind,
        shown,
        shown_margin,
        share(_hits(mirrored), images),
        mean(mirrored, images),
        share(both, images),
    )


def _margins(rows: Sequence[ProbeRow], better: View, worse: View) -> NDArray[np.float64]:
    return np.array([row.log_probs[better] - row.log_probs[worse] for row in rows])


def _hits(margin: NDArray[np.float64]) -> NDArray[np.float64]:
    hits: NDArray[np.float64] = (np.sign(margin) + 1) / 2
    return hits
