"""Which rows to look at: a fair draw, the ones near a limit, and the worst. Reads no image.

Memory does not grow with the rows: each group keeps as many lines as could be shown.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from pipeline.report.facts import RunFacts, slack
from pipeline.report.parts import Address, Line
from pipeline.report.survey import Survey
from schemas.ids import content_id
from schemas.outcomes import DROP, PAIR

Item = TypeVar("Item")


class Stratum(StrEnum):
    """Why a row was chosen to be shown."""

    RANDOM = "random"
    BORDERLINE = "borderline"
    WORST = "worst"


_TURNS = (Stratum.RANDOM, Stratum.BORDERLINE, Stratum.RANDOM, Stratum.WORST)
"""Half of a group's places go to the random draw, a quarter to each of the others."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A row chosen to be shown."""

    line: Line
    """The row's narrow line."""
    strata: tuple[Stratum, ...]
    """Why; several where it came up more than once."""


def choose(lines: Iterable[Line], found: Survey, facts: RunFacts, num_samples: int) -> list[Sample]:
    """Fill the histograms and choose at most `num_samples` rows, the ones to show first in front.

    A third of the places is for drops, unless pairs or drops have too few rows to fill theirs.
    Groups (recipe and contrast kind of pairs, recipe and reason of drops) take turns, and within a
    group the strata do, so that cutting the list anywhere leaves a fair view.
    """
    groups: dict[tuple[str, str, str], _Group] = {}
    for line in lines:
        for name, value in line.scores.items():
            found.histograms[line.recipe, name].add(value, line.status)
        key = (line.status, line.recipe, line.kind if line.status == PAIR else line.reason)
        if key not in groups:
            groups[key] = _Group(num_samples)
        groups[key].add(line, _slacks(line, found, facts))
    ordered = sorted(groups.items())
    pairs = _round_robin([_turns(g) for (status, *_), g in ordered if status == PAIR])
    drops = _round_robin([_turns(g) for (status, *_), g in ordered if status == DROP])
    num_pairs = len(_taken(pairs, num_samples))
    shown_drops = _taken(drops, max(num_samples - num_pairs, num_samples // 3))
    shown_pairs = _taken(pairs, num_samples - len(shown_drops))
    # Two pairs, then a drop: a page that has to stop early still shows both.
    return _round_robin([shown_pairs[0::2], shown_pairs[1::2], shown_drops])


def _slacks(line: Line, found: Survey, facts: RunFacts) -> list[float]:
    """Slack of each limited score, as a share of the range the score has in its recipe."""
    slacks = []
    for name, limit in facts.limits(line.recipe, line.kind).items():
        if name in line.scores:
            histogram = found.histograms[line.recipe, name]
            slacks.append(slack(limit, line.scores[name]) / (histogram.high - histogram.low))
    return slacks


@dataclass(frozen=True, slots=True)
class _Place:
    """Rank of a line in a stratum, low ones first; ties go to a draw that no clock decides."""

    rank: float
    draw: str
    line: Line

    @property
    def key(self) -> tuple[float, str, Address]:
        return self.rank, self.draw, self.line.at

    def __lt__(self, other: _Place) -> bool:
        # The wrong way round: a heap then has the line to forget on top.
        return self.key > other.key


@dataclass(slots=True)
class _Group:
    """The first lines of one group in each stratum, at most `size` of each."""

    size: int
    heaps: dict[Stratum, list[_Place]] = field(
        default_factory=lambda: {stratum: [] for stratum in Stratum}
    )

    def add(self, line: Line, slacks: list[float]) -> None:
        draw = content_id("report", line.pair_id, line.seed_id, line.recipe, line.stage)
        self._keep(Stratum.RANDOM, _Place(0.0, draw, line))
        if not slacks:
            return
        margin = min(slacks)
        self._keep(Stratum.BORDERLINE, _Place(abs(margin), draw, line))
        # The pair with the lowest margin is the most borderline one already; over all its limits
        # together another one may be the poorest.
        worst = margin if line.status == DROP else sum(slacks) / len(slacks)
        self._keep(Stratum.WORST, _Place(worst, draw, line))

    def _keep(self, stratum: Stratum, place: _Place) -> None:
        heap = self.heaps[stratum]
        heapq.heappush(heap, place)
        if len(heap) > self.size:
            heapq.heappop(heap)

    def ordered(self, stratum: Stratum) -> list[Line]:
        return [place.line for place in sorted(self.heaps[stratum], reverse=True)]


def _turns(group: _Group) -> list[tuple[Line, Stratum]]:
    """The group's lines in the order of `_TURNS`; one line may come up in several strata."""
    queues = {stratum: group.ordered(stratum) for stratum in Stratum}
    # In a small group every line is among the worst; only a quarter is called so.
    for stratum in (Stratum.BORDERLINE, Stratum.WORST):
        queues[stratum] = queues[stratum][: max(1, len(queues[Stratum.RANDOM]) // 4)]
    turns: list[tuple[Line, Stratum]] = []
    for i in range(len(queues[Stratum.RANDOM])):
        for turn, stratum in enumerate(_TURNS):
            # The random draw has two turns a round.
            place = 2 * i + turn // 2 if stratum == Stratum.RANDOM else i
            if place < len(queues[stratum]):
                turns.append((queues[stratum][place], stratum))
    return turns


def _taken(turns: list[tuple[Line, Stratum]], size: int) -> list[Sample]:
    """The first `size` different lines, each with the strata it came up in until then."""
    strata: dict[Address, set[Stratum]] = {}
    lines: dict[Address, Line] = {}
    for line, stratum in turns:
        if line.at not in lines and len(lines) == size:
            break
        lines[line.at] = line
        strata.setdefault(line.at, set()).add(stratum)
    return [Sample(line, tuple(sorted(strata[at]))) for at, line in lines.items()]


def _round_robin(queues: Sequence[Sequence[Item]]) -> list[Item]:
    """The first of each queue, then the second of each, and so on."""
    longest = max(map(len, queues), default=0)
    return [queue[i] for i in range(longest) for queue in queues if i < len(queue)]
