"""Several answers after several prompts in one token row. Knows token ids, not models or texts.

A pair's views begin alike: the same image, the same question, often the first words of the answer.
Laid out as a tree, what is alike is computed once. Each token attends to the tokens on its own way
from the root, and has the position that it has on that way; so its hidden state is the one it would
have in a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer.families import PromptTokens

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reading:
    """An answer after a prompt, and which cells it fills."""

    prompt: PromptTokens
    """The prompt; its images are numbered as in the batch."""
    answer: Numbers
    """Tokens of the answer with end-of-turn, [A]."""
    cells: tuple[tuple[int, NDArray[np.float32]], ...]
    """Numbers of cells, each with the factor of every answer token's log-prob in it, [A]."""
    compared: tuple[tuple[int, NDArray[np.float32]], ...] = ()
    """The same for cells that compare two models' distributions over the vocabulary there."""

    @property
    def first_image(self) -> int:
        """Number of the first image shown, -1 for none."""
        images = self.prompt.image
        return int(images[images >= 0][0]) if (images >= 0).any() else -1


@dataclass(frozen=True, slots=True)
class Places:
    """Places in a token row at which something is computed, and the cells to which it is added."""

    reads: Numbers
    """Places whose hidden states are read, each with its `targets` once, [N]."""
    targets: Numbers
    """Tokens that follow there, [N]."""
    cells: Numbers
    """Cells to which numbers are added, [K]."""
    terms: Numbers
    """Which of the N numbers is added, [K]."""
    weights: NDArray[np.float32]
    """With which factor, [K]."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A token row: one reading, or a tree of several."""

    ids: Numbers
    """Tokens, [T]."""
    depth: Numbers
    """Place of each token on its path from the root, from 0, [T]."""
    images: tuple[int, ...]
    """Images in the order in which their placeholders stand in `ids`."""
    segment: Numbers
    """Which unbranched stretch of the tree each token is in, [T]."""
    sees: NDArray[np.bool_]
    """Whether a stretch attends to another: to those on its path from the root and, as far as
    tokens before it go, to itself, [S, S]."""
    ways: tuple[tuple[PromptTokens, Numbers], ...]
    """For every reading its prompt, and the places in `ids` of prompt and answer."""
    log_probs: Places
    """Where log-probs of the tokens that follow are wanted."""
    compared: Places
    """Where the distribution over the vocabulary is wanted, each place once."""

    @property
    def branches(self) -> bool:
        """Whether it is more than one plain row."""
        return len(self.sees) > 1


def join(parts: Sequence[Places], starts: Sequence[int]) -> Places:
    """The places of several token rows that stand one after the other, each from its start on."""
    before = np.cumsum([0, *(len(p.reads) for p in parts)])
    return Places(
        reads=_joined([p.reads + start for p, start in zip(parts, starts, strict=True)]),
        targets=_joined([p.targets for p in parts]),
        cells=_joined([p.cells for p in parts]),
        terms=_joined([p.terms + first for p, first in zip(parts, before, strict=False)]),
        weights=np.concatenate([np.zeros(0, np.float32), *(p.weights for p in parts)]),
    )


def _joined(parts: Sequence[Numbers]) -> Numbers:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def pack(readings: Sequence[Reading], *, share: bool) -> list[Packed]:
    """The readings of one pair as token rows: one for each first image, or one for each reading.

    Rows that begin with different images have little in common, so they stay apart. Without `share`
    nothing is a tree, for attention kernels that know only causal masks.
    """
    groups: dict[int, list[Reading]] = {}
    for number, reading in enumerate(readings):
        groups.setdefault(reading.first_image if share else number, []).append(reading)
    return [_packed(group) for group in groups.values()]


def _packed(readings: Sequence[Reading]) -> Packed:
    places, ids, images, parents = _tree(readings)
    depth = np.zeros(len(ids), np.int64)
    for way in places:
        depth[way] = np.arange(len(way))
    segment, sees = _segments(parents)
    starts = np.flatnonzero((images >= 0) & (np.diff(images, prepend=-1) != 0))
    return Packed(
        ids=ids,
        depth=depth,
        images=tuple(images[starts].tolist()),
        segment=segment,
        sees=sees,
        ways=tuple((r.prompt, way) for r, way in zip(readings, places, strict=True)),
        log_probs=_places(readings, places, [r.cells for r in readings]),
        compared=_places(readings, places, [r.compared for r in readings], whole=True),
    )


def _places(
    readings: Sequence[Reading],
    ways: Sequence[Numbers],
    cells_of: Sequence[tuple[tuple[int, NDArray[np.float32]], ...]],
    *,
    whole: bool = False,
) -> Places:
    """The places of some cells of every reading; of a `whole` distribution no token is wanted."""
    pairs: dict[tuple[int, int], int] = {}
    cells: list[int] = []
    terms: list[int] = []
    weights: list[float] = []
    for reading, way, of_reading in zip(readings, ways, cells_of, strict=True):
        before = way[len(reading.prompt.ids) - 1 : -1]
        for cell, factors in of_reading:
            for token in np.flatnonzero(factors):
                pair = (int(before[token]), 0 if whole else int(reading.answer[token]))
                cells.append(cell)
                terms.append(pairs.setdefault(pair, len(pairs)))
                weights.append(float(factors[token]))
    wanted = np.array(list(pairs), np.int64).reshape(-1, 2)
    return Places(
        reads=wanted[:, 0],
        targets=wanted[:, 1],
        cells=np.array(cells, np.int64),
        terms=np.array(terms, np.int64),
        weights=np.array(weights, np.float32),
    )


def _tree(readings: Sequence[Reading]) -> tuple[list[Numbers], Numbers, Numbers, Numbers]:
    """Places of every reading's tokens; and ids, images and parents by place.

    A parent is -1 at the root and comes before its children.
    """
    children: dict[tuple[int, int, int], int] = {}
    places = []
    for reading in readings:
        ids = [*reading.prompt.ids.tolist(), *reading.answer.tolist()]
        images = [*reading.prompt.image.tolist(), *([-1] * len(reading.answer))]
        way = []
        parent = -1
        for token, image in zip(ids, images, strict=True):
            parent = children.setdefault((parent, token, image), len(children))
            way.append(parent)
        places.append(np.array(way, np.int64))
    table = np.array(list(children), np.int64)
    return places, table[:, 1].copy(), table[:, 2].copy(), table[:, 0].copy()


def _segments(parents: Numbers) -> tuple[Numbers, NDArray[np.bool_]]:
    """Unbranched stretches: which one each token is in, and which ones see which."""
    num_children = np.bincount(parents[parents >= 0], minlength=len(parents))
    begins = (parents != np.arange(len(parents)) - 1) | (num_children[parents] > 1)
    begins[0] = True
    segment = np.cumsum(begins) - 1
    sees = np.eye(int(segment[-1]) + 1, dtype=bool)
    for first in np.flatnonzero(begins)[1:]:
        if parents[first] >= 0:
            sees[segment[first]] |= sees[segment[parents[first]]]
    return segment, sees
