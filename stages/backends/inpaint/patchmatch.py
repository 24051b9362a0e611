"""Hole filling by patches of the same image, coarse to fine. Knows arrays alone.

Completion as in Wexler, Shechtman, Irani (PAMI 2007): every pixel of the hole is voted for by the
patches around it, each a copy of its most similar patch outside. The search is PatchMatch (Barnes
et al., SIGGRAPH 2009), with jumps so that numpy can move all pixels at once. The texture channels
follow Newson et al. (SIAM Imaging 2014): colour alone mistakes a smooth place for a rough one.

No matrix products: their last bits may depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.pixels import Pixels

BoolMask = NDArray[np.bool_]
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

RADIUS = 3
"""Patches are 7 x 7 pixels at every scale."""
COARSEST_DEPTH = 2.5
"""The pyramid ends where no pixel of the hole is deeper than this, in pixels."""
JUMPS = (8, 4, 2, 1)
"""Distances in pixels over which a good match is offered to its neighbours."""
COHERENCE = 0.8
"""A random match must cost less than this share of the present one: whole areas that move together
look better than single best pixels."""
ENOUGH = 0.2
"""Share of the possible sources that must be left when some are to be avoided."""


@dataclass(frozen=True)
class Effort:
    """How hard to try."""

    rounds: int = 2
    """Searches and votes per scale."""
    row_weight: float = 0.25
    """Cost of copying from another height, against colour (grey levels per 1% of the image)."""
    column_weight: float = 0.05
    """The same for another column."""


class _Level(NamedTuple):
    """One scale of the pyramid."""

    channels: Floats
    """[H, W, 4] Lab and local contrast; the hole holds the current guess."""
    hole: BoolMask
    """[H, W] what to fill."""
    sources: BoolMask
    """[H, W] centres of the patches that may be copied."""


class _Field(NamedTuple):
    """The current match of every target pixel: dense [H, W] source rows and columns."""

    rows: Ints
    cols: Ints


def complete(
    image: Pixels, hole: BoolMask, avoid: BoolMask, working_area: int, effort: Effort
) -> Pixels:
    """The image with its hole filled; equal to `image` outside the hole.

    The hole is matched at a scale where it has at most `working_area` pixels, and its texture is
    then copied at full size along the matches. Nothing is copied from where `avoid` is set, as
    long as enough is left. Where an image leaves no whole patch outside the hole, the fill is a
    smooth one.
    """
    scale = min(1.0, float(np.sqrt(working_area / max(1, hole.sum()))))
    levels = _pyramid(image, hole, avoid, scale)
    rng = np.random.default_rng(0)
    field: _Field | None = None
    for coarseness, level in zip(reversed(range(len(levels))), levels, strict=True):
        if not level.sources.any():
            continue
        if field is None:
            field = _random_field(level.sources, rng)
        else:
            field = _enlarged(field, level.sources, rng)
            _vote(level, field, None)
        # Coarse scales decide what goes where and cost next to nothing.
        rounds = effort.rounds * min(4, 1 + coarseness)
        field = _refined(level, field, effort, rng, rounds)
    if field is None:
        smooth: Pixels = cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        return smooth
    return _copied(image, hole, field)


def _pyramid(image: Pixels, hole: BoolMask, avoid: BoolMask, scale: float) -> list[_Level]:
    """Scales from coarse to fine, each half the next, the hole filled smoothly in all."""
    smooth = cv2.inpaint(image, _dilated(hole, 1).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    gray = lab[..., 0]
    slopes = [cv2.Sobel(gray, cv2.CV_32F, *d, ksize=3, scale=0.5) for d in ((1, 0), (0, 1))]
    texture = np.abs(slopes[0]) + np.abs(slopes[1])
    texture = cv2.blur(texture, (5, 5))
    # The gradient at the rim is that of the object; take the next one outwards for the whole hole.
    known = (~_dilated(hole, RADIUS)).astype(np.float32)
    rim = cv2.blur(texture * known, (31, 31)) / (cv2.blur(known, (31, 31)) + 1e-6)
    texture = np.where(_dilated(hole, RADIUS), rim, texture)
    lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    full = np.dstack([lab, texture]).astype(np.float32)
    levels: list[_Level] = []
    while True:
        rows, cols = (max(1, round(n * scale)) for n in hole.shape)
        channels = cv2.resize(full, (cols, rows), interpolation=cv2.INTER_AREA)
        small, shunned = _reduced(hole, (cols, rows)), _reduced(avoid, (cols, rows))
        sources = _sources(small, shunned)
        levels.append(_Level(channels.reshape(rows, cols, 4), small, sources))
        depth = cv2.distanceTransform(np.pad(small, 1).astype(np.uint8), cv2.DIST_L2, 3).max()
        if depth <= COARSEST_DEPTH or min(rows, cols) < 8 * RADIUS:
            return levels[::-1]
        scale /= 2


def _dilated(mask: BoolMask, radius: int) -> BoolMask:
    size = 2 * radius + 1
    grown: BoolMask = cv2.dilate(mask.astype(np.uint8), np.ones((size, size), np.uint8)) > 0
    return grown


def _reduced(mask: BoolMask, size: tuple[int, int]) -> BoolMask:
    """The mask at another (width, height), with every pixel that it touches."""
    cover = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    touched: BoolMask = cover.reshape(size[::-1]) > 0.01
    return touched


def _sources(hole: BoolMask, avoid: BoolMask) -> BoolMask:
    """Centres of patches that lie wholly in the image and outside the hole and what to avoid."""
    inside = np.zeros_like(hole)
    inside[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
    free: BoolMask = inside & ~_dilated(hole, RADIUS)
    chosen: BoolMask = free & ~_dilated(avoid, RADIUS)
    return chosen if chosen.sum() >= max(1, ENOUGH * free.sum()) else free


def _random_field(sources: BoolMask, rng: np.random.Generator) -> _Field:
    rows, cols = np.nonzero(sources)
    pick = rng.integers(0, rows.size, sources.shape)
    return _Field(rows[pick].astype(np.int32), cols[pick].astype(np.int32))


def _enlarged(field: _Field, sources: BoolMask, rng: np.random.Generator) -> _Field:
    """The matches of a coarser scale as a first guess at this one."""
    shape = sources.shape
    rows, cols = _offsets_at(field, shape)
    here = np.indices(shape, dtype=np.int32)
    rows, cols = np.rint(rows).astype(np.int32) + here[0], np.rint(cols).astype(np.int32) + here[1]
    rows, cols = rows.clip(0, shape[0] - 1), cols.clip(0, shape[1] - 1)
    bad = ~sources[rows, cols]
    other = _random_field(sources, rng)
    return _Field(np.where(bad, other.rows, rows), np.where(bad, other.cols, cols))


def _offsets_at(field: _Field, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    """Source minus target of the nearest match, in pixels of an image of another size."""
    small = field.rows.shape
    here = np.indices(small, dtype=np.float32)
    ratio = np.float32(shape[0] / small[0]), np.float32(shape[1] / small[1])
    size = (shape[1], shape[0])
    rows = cv2.resize((field.rows - here[0]) * ratio[0], size, interpolation=cv2.INTER_NEAREST)
    cols = cv2.resize((field.cols - here[1]) * ratio[1], size, interpolation=cv2.INTER_NEAREST)
    return rows, cols


def _basis() -> list[tuple[int, Floats, Floats]]:
    """(channel, row kernel, column kernel): the low part of each channel's orthonormal DCT.

    Distances between these few numbers stand for those between whole patches, at a fraction of
    the time.
    """
    n = 2 * RADIUS + 1
    k, i = np.mgrid[:n, :n]
    dct = np.sqrt(2 / n) * np.cos(np.pi * (i + 0.5) * k / n)
    dct[0] /= np.sqrt(2)
    dct = dct.astype(np.float32)
    limits = (4, 1, 1, 0)
    return [
        (channel, dct[u], dct[v])
        for channel, limit in enumerate(limits)
        for u in range(limit + 1)
        for v in range(limit + 1 - u)
    ]


_BASIS = _basis()
_CHANNEL_WEIGHTS = (1.0, 1.0, 1.0, 2.0)


def _features(level: _Level, effort: Effort) -> Floats:
    """[H, W, F] descriptors of the patch around each pixel."""
    channels = level.channels
    planes = [
        cv2.sepFilter2D(
            np.ascontiguousarray(channels[..., c]) * np.float32(_CHANNEL_WEIGHTS[c]), -1, row, col
        )
        for c, row, col in _BASIS
    ]
    rows, cols = np.indices(level.hole.shape, dtype=np.float32)
    percent = np.float32(100 / max(level.hole.shape))
    norm = np.float32(2 * RADIUS + 1)
    planes.append(rows * percent * np.float32(effort.row_weight) * norm)
    planes.append(cols * percent * np.float32(effort.column_weight) * norm)
    return np.stack(planes, axis=-1).astype(np.float32)


def _refined(
    level: _Level, field: _Field, effort: Effort, rng: np.random.Generator, rounds: int
) -> _Field:
    """Searches and votes in turn; the guess in `level.channels` is overwritten."""
    rows, cols = np.nonzero(_dilated(level.hole, RADIUS))
    targets = rows, cols
    for _ in range(rounds):
        features = _features(level, effort)
        field, cost = _searched(features, targets, field, level.sources, rng)
        _vote(level, field, cost)
    return field


def _searched(
    features: Floats,
    targets: tuple[NDArray[np.intp], NDArray[np.intp]],
    field: _Field,
    sources: BoolMask,
    rng: np.random.Generator,
) -> tuple[_Field, Floats]:
    """One PatchMatch pass over all targets at once: propagation, then random search."""
    height, width = sources.shape
    flat = features.reshape(height * width, -1)
    trows, tcols = (t.astype(np.int32) for t in targets)
    wanted = flat[trows * width + tcols]
    all_rows, all_cols = field.rows.copy(), field.cols.copy()
    best_r, best_c = all_rows[targets], all_cols[targets]

    def cost_of(r: Ints, c: Ints, of: Floats) -> Floats:
        diff = flat[r * width + c] - of
        squared: Floats = np.einsum("ij,ij->i", diff, diff)
        return squared

    cost = cost_of(best_r, best_c, wanted)
    source_flat = sources.ravel()

    def offer(r: Ints, c: Ints, gain: float) -> None:
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
        inside &= (r != best_r) | (c != best_c)
        at = np.flatnonzero(inside)
        at = at[source_flat[r[at] * width + c[at]]]
        new = cost_of(r[at], c[at], wanted[at])
        better = new < np.float32(gain) * cost[at]
        at = at[better]
        best_r[at], best_c[at], cost[at] = r[at], c[at], new[better]

    for jump in JUMPS:
        for dr, dc in ((jump, 0), (-jump, 0), (0, jump), (0, -jump)):
            all_rows[targets], all_cols[targets] = best_r, best_c
            nr, nc = (trows + dr).clip(0, height - 1), (tcols + dc).clip(0, width - 1)
            offer(all_rows[nr, nc] - (nr - trows), all_cols[nr, nc] - (nc - tcols), 1.0)
    reach = max(height, width)
    while reach >= 1:
        step = rng.integers(-reach, reach + 1, (2, best_r.size), dtype=np.int32)
        offer(best_r + step[0], best_c + step[1], COHERENCE)
        reach //= 2
    all_rows[targets], all_cols[targets] = best_r, best_c
    dense = np.zeros(sources.shape, dtype=np.float32)
    dense[targets] = cost
    return _Field(all_rows, all_cols), dense


def _vote(level: _Level, field: _Field, cost: Floats | None) -> None:
    """Overwrite the hole with the weighted mean of what the overlapping matched patches hold."""
    hole, channels = level.hole, level.channels
    height, width = hole.shape
    rows, cols = np.nonzero(hole)
    depth = cv2.distanceTransform(
        np.pad(_dilated(hole, RADIUS), 1).astype(np.uint8), cv2.DIST_L2, 3
    )[1:-1, 1:-1]
    weight = np.power(np.float32(1.3), -depth)
    if cost is not None:
        sigma = np.percentile(cost[hole], 75) + 1e-3
        weight = weight * np.exp(-cost / np.float32(2 * sigma))
    total = np.zeros((rows.size, channels.shape[2]), dtype=np.float32)
    norm = np.zeros((rows.size, 1), dtype=np.float32)
    source = channels.reshape(height * width, -1)
    for dr in range(-RADIUS, RADIUS + 1):
        for dc in range(-RADIUS, RADIUS + 1):
            r, c = (rows + dr).clip(0, height - 1), (cols + dc).clip(0, width - 1)
            w = weight[r, c][:, None] + np.float32(1e-6)
            at = (field.rows[r, c] - (r - rows)) * width + field.cols[r, c] - (c - cols)
            total += w * source[at]
            norm += w
    channels[rows, cols] = total / norm


def _copied(image: Pixels, hole: BoolMask, field: _Field) -> Pixels:
    """Full-size texture along the matches, cross-faded where neighbouring matches disagree."""
    height, width = hole.shape
    small_h, small_w = field.rows.shape
    rows, cols = np.nonzero(hole)
    ratio_r, ratio_c = height / small_h, width / small_w
    y = ((rows + 0.5) / ratio_r - 0.5).clip(0, small_h - 1)
    x = ((cols + 0.5) / ratio_c - 0.5).clip(0, small_w - 1)
    y0, x0 = np.floor(y).astype(np.intp), np.floor(x).astype(np.intp)
    total = np.zeros((rows.size, 3), dtype=np.float32)
    norm = np.zeros((rows.size, 1), dtype=np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            sy, sx = np.minimum(y0 + dy, small_h - 1), np.minimum(x0 + dx, small_w - 1)
            w = np.abs(1 - dy - (y - y0)) * np.abs(1 - dx - (x - x0)) + 1e-4
            r = rows + np.rint((field.rows[sy, sx] - sy) * ratio_r).astype(np.intp)
            c = cols + np.rint((field.cols[sy, sx] - sx) * ratio_c).astype(np.intp)
            r, c = r.clip(0, height - 1), c.clip(0, width - 1)
            w = (w * ~hole[r, c])[:, None].astype(np.float32) + np.float32(1e-9)
            total += w * image[r, c]
            norm += w
    filled = image.copy()
    filled[rows, cols] = np.rint(total / norm).clip(0, 255).astype(np.uint8)
    return filled
