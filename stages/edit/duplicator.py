"""Copy an object to a free place in the image, and raise its number in the answer by one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from schemas.geometry import Box, Mask
from schemas.ids import row_seed
from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Kind,
    Reason,
    Region,
    Seed,
    Segmented,
)
from stages import wording
from stages.base import Device, RecordStage
from stages.pixels import Pixels, decode, encode_pair

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_SEARCH_SIDE = 192
"""Longer side, in pixels, of the small image in which places are compared."""
_TRIES = 8
"""How many of the best places are checked at full size."""


@dataclass(frozen=True)
class Duplicator(RecordStage[Segmented, Candidate]):
    """Paste a copy of the region at about its own height, where the surroundings look similar.

    The answer must count the region's noun ("two dogs", "a dog"), and as many must be annotated or
    detected. A place is free if the copy lies inside the image and touches neither the region nor
    the box of any other thing. The stage takes the free place whose surroundings and ground (mean
    and spread of lightness and colours, and texture, of the upper, middle and lower third) are most
    like those around the region. The row's seed decides whether the copy is mirrored.
    """

    articles: bool = True
    """Whether "a dog" counts as one dog."""
    max_rise: Annotated[float, Ge(0), Le(1)] = 0.03
    """How far up or down the copy may be moved, as a share of the image's height."""
    max_mismatch: Annotated[float, Gt(0)] = 0.42
    """Largest difference of surroundings: root mean square over bands and features of 8-bit
    differences, divided by 32."""
    max_area: Annotated[float, Gt(0), Le(1)] = 0.25
    """Largest mask to copy, as a share of the image's area."""
    min_whole: Annotated[float, Ge(0), Le(1)] = 0.75
    """Smallest share of the annotated box's width and of its height that the largest connected part
    of the mask must span, and of the mask's pixels that it must hold: a copy of half a thing is not
    a second thing."""
    mirror: bool = True
    """Whether the copy may be mirrored."""
    feather_px: Annotated[float, Gt(0)] = 1.5
    """Width of the copy's soft edge, inside the mask, in pixels."""

    def open(self, device: Device) -> None:
        """Load the backends, and the rules on words."""
        super().open(device)
        wording.load_rules()

    def process_one(self, record: Segmented) -> Sequence[Candidate] | Drop:
        """The candidate with one more, or why there is none."""
        seed, region = record.seed, record.region
        assert region.mask is not None
        mentions = _mentions(seed.chosen, region)
        counted = self._counted(record, mentions)
        if isinstance(counted, Drop):
            return counted
        mask = region.mask.to_array()
        trouble = self._unfit(mask, seed, region)
        if trouble is not None:
            return trouble
        draw = np.random.default_rng(row_seed(seed.run_seed, seed.seed_id, "duplicator"))
        flipped = bool(draw.integers(2)) and self.mirror
        pixels = decode(seed.image)
        stamp = _Stamp.cut(pixels, mask, flipped=flipped)
        place = self._place(record, pixels, mask, stamp)
        if isinstance(place, Drop):
            return place
        x, y, mismatch = place
        edited, pasted = _paste(pixels, stamp, x, y, self.feather_px)
        dx, dy = x - stamp.x, y - stamp.y
        params = {
            "offset": f"{dx},{dy}",
            "mirrored": str(flipped).lower(),
            "mismatch": f"{mismatch:.3f}",
        }
        return [_candidate(record, mentions, counted, edited, pasted, params=params)]

    def _counted(
        self, record: Segmented, mentions: Sequence[wording.Mention]
    ) -> wording.Mention | Drop:
        seed, region = record.seed, record.region
        if wording.speaks_of_several(seed.chosen, region.label, region.attributes):
            return Drop(Reason.NO_COUNT_WORD, f'"{region.label}": the answer mentions others')
        if not wording.has_limits(region.label):
            return Drop(Reason.NO_COUNT_WORD, f'"{region.label}" cannot be counted')
        asked = [m for m in _mentions(seed.prompt, region) if m.number is not None or not m.plural]
        if asked:
            return Drop(Reason.NO_COUNT_WORD, f'the prompt itself says "{asked[0].noun.text}"')
        counted = wording.counted(seed.chosen, mentions)
        if isinstance(counted, str):
            return Drop(Reason.NO_COUNT_WORD, f'"{region.label}": {counted}')
        assert counted.opener is not None
        if not self.articles and counted.opener.lower in {"a", "an"}:
            return Drop(Reason.NO_COUNT_WORD, f'"{counted.opener.text}" does not count as one')
        present = [
            other
            for other in record.known.things
            if wording.refers_to(counted, other.label, other.attributes)
        ]
        twice = any(a.box.iou(b.box) > 0.5 for a, b in itertools.combinations(present, 2))
        if twice:
            return Drop(
                Reason.COUNT_MISMATCH, f'two boxes of "{region.label}" may be the same thing'
            )
        if len(present) != counted.number:
            return Drop(
                Reason.COUNT_MISMATCH,
                f'the answer counts {counted.number} "{region.label}", {len(present)} are known',
            )
        tied = wording.place_word(seed.chosen, counted)
        if tied is not None:
            return Drop(Reason.NO_FREE_PLACE, f'the answer ties it to a place: "{tied}"')
        return counted

    def _unfit(self, mask: Bools, seed: Seed, region: Region) -> Drop | None:
        share = float(mask.mean())
        if not mask.any():
            return Drop(Reason.BAD_SEGMENTATION, f'the mask of "{region.label}" is empty')
        if share > self.max_area:
            return Drop(
                Reason.REGION_TOO_LARGE,
                f"the mask is {share:.2f} of the image, limit {self.max_area}",
            )
        whole = _wholeness(mask, region.box)
        if whole < self.min_whole:
            return Drop(
                Reason.BAD_SEGMENTATION,
                f"the mask is {whole:.2f} of a whole thing, limit {self.min_whole}",
            )
        side = np.concatenate([mask[:, 0], mask[:, -1]])
        if side.sum() > 0.02 * seed.height:
            return Drop(Reason.NO_FREE_PLACE, "the image's edge cuts the region off")
        return None

    def _place(
        self, record: Segmented, pixels: Pixels, mask: Bools, stamp: _Stamp
    ) -> tuple[int, int, float] | Drop:
        """Upper left corner for the copy, and how much its surroundings differ."""
        seed, taken = record.seed, mask.copy()
        for other in record.others:
            x0, y0, x1, y1 = other.box.pixels(seed.width, seed.height)
            taken[y0:y1, x0:x1] = True
        small = _SEARCH_SIDE / max(seed.width, seed.height, _SEARCH_SIDE)
        size = (max(1, round(seed.width * small)), max(1, round(seed.height * small)))
        shrunk = [_shrunk(m, size) for m in (mask, taken)]
        search = _Search(
            cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), *shrunk, flipped=stamp.flipped
        )
        # A region that the upper or lower edge cuts off stays at that edge.
        cut = bool(mask[0].any() or mask[-1].any())
        places = search.best(0 if cut else round(self.max_rise * size[1]))
        for row, column, mismatch in places:
            x = stamp.x + round((column - int(search.xs[0])) * seed.width / size[0])
            y = stamp.y + round((row - int(search.ys[0])) * seed.height / size[1])
            if mismatch <= self.max_mismatch and _is_free(taken, stamp.mask, x, y):
                return x, y, mismatch
        if not places:
            return Drop(Reason.NO_FREE_PLACE, "no place at this height is free")
        return Drop(
            Reason.NO_FREE_PLACE,
            f"the best free place differs by {places[0][2]:.3f}, limit {self.max_mismatch}",
        )


def _wholeness(mask: Bools, box: Box) -> float:
    """Shares of mask, box width and box height that the largest part spans; the smallest."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    largest = stats[1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())]
    return min(
        float(largest[cv2.CC_STAT_AREA] / mask.sum()),
        float(largest[cv2.CC_STAT_WIDTH] / max(box.x1 - box.x0, 1)),
        float(largest[cv2.CC_STAT_HEIGHT] / max(box.y1 - box.y0, 1)),
    )


def _shrunk(mask: Bools, size: tuple[int, int]) -> Bools:
    """The mask at another size (width, height): every pixel that it touches."""
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    touched: Bools = share > 0
    return touched


@dataclass(frozen=True)
class _Stamp:
    """The object cut out of the image: its box's pixels and mask, mirrored or not."""

    pixels: Pixels
    mask: Bools
    x: int
    y: int
    flipped: bool

    @classmethod
    def cut(cls, pixels: Pixels, mask: Bools, *, flipped: bool) -> _Stamp:
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        crop = np.s_[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        step = -1 if flipped else 1
        return cls(pixels[crop][:, ::step], mask[crop][:, ::step], int(xs[0]), int(ys[0]), flipped)


class _Search:
    """Compares the surroundings of a shape at all offsets at once, by correlation.

    Places are rows and columns of the shape's upper left corner in the small image.
    """

    def __init__(self, pixels: Pixels, mask: Bools, taken: Bools, *, flipped: bool) -> None:
        self.ys, self.xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        self._pad = max(2, round(0.12 * max(np.ptp(self.ys), np.ptp(self.xs)) + 1))
        box = np.s_[self.ys[0] : self.ys[-1] + 1, self.xs[0] : self.xs[-1] + 1]
        self._shape = np.pad(mask[box], self._pad)
        self._step = -1 if flipped else 1
        self._taken = np.pad(taken, self._pad)
        lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).astype(np.float64)
        across = cv2.Sobel(lab[..., 0], cv2.CV_64F, 1, 0, ksize=3)
        down = cv2.Sobel(lab[..., 0], cv2.CV_64F, 0, 1, ksize=3)
        # Colours differ less than lightness does, and say more about the kind of ground.
        planes = [lab[..., 0], 2 * lab[..., 1], 2 * lab[..., 2], np.hypot(across, down) / 2]
        self._planes = np.pad(
            np.stack([np.ones(mask.shape), *planes, *(p**2 for p in planes[:3])]),
            ((0, 0), (self._pad, self._pad), (self._pad, self._pad)),
        )
        self._spectra = np.fft.rfft2(self._planes)

    def best(self, rise: int) -> list[tuple[int, int, float]]:
        """Free places and their mismatch, the best first, not next to each other."""
        order = np.where(self._free(rise), self._mismatch(), np.inf)
        found: list[tuple[int, int, float]] = []
        while len(found) < _TRIES:
            row, column = divmod(int(order.argmin()), order.shape[1])
            if not math.isfinite(order[row, column]):
                break
            found.append((row, column, float(order[row, column])))
            order[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = np.inf
        return found

    def _free(self, rise: int) -> Bools:
        """Whether the shape, a little grown, fits there and touches nothing; [rows, columns]."""
        shape = _grown(self._shape, 1)[:, :: self._step]
        hits = self._correlate(np.fft.rfft2(self._taken.astype(np.float64)), shape)
        free: Bools = hits < 0.5
        rows = np.arange(free.shape[0])
        free &= (np.abs(rows - self.ys[0]) <= rise)[:, None]
        return free

    def _mismatch(self) -> Floats:
        """How much the surroundings and ground of each place differ from those of the region."""
        near = _grown(self._shape, self._pad)
        here = np.s_[
            self.ys[0] : self.ys[0] + near.shape[0], self.xs[0] : self.xs[0] + near.shape[1]
        ]
        ring = near & ~_grown(self._shape, 1) & ~self._taken[here]
        total, bands = np.zeros(()), 0
        for band in np.array_split(np.arange(near.shape[0]), 3):
            rows = np.zeros_like(near)
            rows[band] = True
            own = self._planes[:, here[0], here[1]][:, ring & rows].sum(axis=1)
            if own[0] < 8:
                continue  # too few pixels to compare with
            kernel = (near & rows)[:, :: self._step]
            there = np.stack([self._correlate(s, kernel) for s in self._spectra])
            difference = _statistics(there) - _statistics(own[:, None, None])
            total = total + (difference**2).mean(axis=0)
            bands += 1
        shape = tuple(n - m + 1 for n, m in zip(self._taken.shape, near.shape, strict=True))
        if bands == 0:
            return np.full(shape, np.inf)
        mismatch: Floats = np.sqrt(total / bands) / 32
        return mismatch

    def _correlate(self, spectrum: NDArray[np.complex128], kernel: Bools) -> Floats:
        """Sums under the kernel, for each place where it lies inside the padded image."""
        height, width = self._taken.shape
        padded = np.zeros((height, width))
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
        sums = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(padded)), s=(height, width))
        inside: Floats = sums[: height - kernel.shape[0] + 1, : width - kernel.shape[1] + 1]
        return inside


def _statistics(sums: Floats) -> Floats:
    """Sums of (1, L, a, b, texture, L^2, a^2, b^2) to means of the four and spreads of three."""
    means = sums[1:] / np.maximum(sums[:1], 1)
    spread = np.sqrt(np.maximum(means[4:] - means[:3] ** 2, 0))
    return np.concatenate([means[:4], spread])


def _grown(mask: Bools, radius: int) -> Bools:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    grown: Bools = cv2.dilate(mask.astype(np.uint8), kernel) > 0
    return grown


def _is_free(taken: Bools, shape: Bools, x: int, y: int) -> bool:
    """Whether the shape with its corner at (x, y) lies inside the image and on free pixels."""
    height, width = shape.shape
    if x < 0 or y < 0 or x + width > taken.shape[1] or y + height > taken.shape[0]:
        return False
    return not (taken[y : y + height, x : x + width] & shape).any()


def _paste(
    pixels: Pixels, stamp: _Stamp, x: int, y: int, feather_px: float
) -> tuple[Pixels, Bools]:
    """The image with the stamp's corner at (x, y), and the pasted mask."""
    height, width = stamp.mask.shape
    padded = np.pad(stamp.mask, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    alpha = np.clip(distance / (feather_px + 0.5), 0, 1)[..., None].astype(np.float64)
    edited = pixels.copy()
    under = edited[y : y + height, x : x + width]
    edited[y : y + height, x : x + width] = np.round(
        alpha * stamp.pixels + (1 - alpha) * under
    ).astype(np.uint8)
    pasted = np.zeros(pixels.shape[:2], dtype=bool)
    pasted[y : y + height, x : x + width] = stamp.mask
    return edited, pasted


def _mentions(text: str, region: Region) -> list[wording.Mention]:
    return [
        mention
        for mention in wording.find_mentions(text, region.label)
        if wording.refers_to(mention, region.label, region.attributes)
    ]


def _candidate(
    record: Segmented,
    mentions: Sequence[wording.Mention],
    counted: wording.Mention,
    edited: Pixels,
    pasted: Bools,
    *,
    params: dict[str, str],
) -> Candidate:
    seed, region = record.seed, record.region
    assert counted.number is not None
    words = wording.label_words(region.label)
    one, many = (
        " ".join([*words[:-1], form]) for form in (words[-1], wording.plural_of(words[-1]))
    )
    ys, xs = np.flatnonzero(pasted.any(axis=1)), np.flatnonzero(pasted.any(axis=0))
    box = Box(float(xs[0]), float(ys[0]), float(xs[-1] + 1), float(ys[-1] + 1))
    chosen_image, rejected_image = encode_pair(seed.image, edited)
    return Candidate(
        seed=seed,
        contrast=Contrast(
            kind=Kind.COUNT,
            target=one if counted.number == 1 else f"{wording.number_words(counted.number)} {many}",
            replacement=f"{wording.number_words(counted.number + 1)} {many}",
            instruction=f"add one more {one}",
        ),
        regions=(Region(region.label, box, Mask.from_array(pasted), region.attributes),),
        chosen_image=chosen_image,
        rejected_image=rejected_image,
        counterfactual=wording.one_more(seed.chosen, mentions, counted),
        params=params,
    )
