"""Counts per recipe and stage of what happened to rows; they add up over shards and processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypedDict

StageKey = tuple[str, str]
"""(recipe, stage)."""


class StageCountJson(TypedDict):
    """`StageCount` as plain values."""

    recipe: str
    stage: str
    num_in: int
    num_out: int
    dropped: dict[str, int]
    busy_s: float
    idle_s: float
    usage: dict[str, float]


class CountersJson(TypedDict):
    """`Counters` as plain values: in the metadata of parts, and between processes."""

    num_seeds: int
    stages: list[StageCountJson]


@dataclass
class StageCount:
    """What one stage did."""

    num_in: int = 0
    """Records that entered."""
    num_out: int = 0
    """Records that left to the next stage; more than entered after a fan-out."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Records dropped, by reason."""
    busy_s: float = 0.0
    """Seconds spent inside the stage, over all actors."""
    idle_s: float = 0.0
    """The stage's share of the seconds in which its actors were inside no stage at all."""
    usage: dict[str, float] = field(default_factory=dict)
    """What its backends used beyond time, by name; see `stages.base.Metered`."""

    @property
    def num_dropped(self) -> int:
        """Records dropped."""
        return self.reasons.total()

    def add(self, other: StageCount) -> None:
        """Add the counts of another."""
        self.num_in += other.num_in
        self.num_out += other.num_out
        self.reasons.update(other.reasons)
        self.busy_s += other.busy_s
        self.idle_s += other.idle_s
        for name, amount in other.usage.items():
            self.usage[name] = self.usage.get(name, 0.0) + amount


@dataclass
class Counters:
    """Counts per stage, in the order in which the stages first ran."""

    stages: dict[StageKey, StageCount] = field(default_factory=dict)
    """Counts by (recipe, stage)."""
    num_seeds: int = 0
    """Seeds done, whatever became of them."""

    def count(
        self,
        key: StageKey,
        *,
        num_in: int,
        num_out: int,
        reasons: Iterable[str],
        busy_s: float = 0.0,
        usage: Mapping[str, float] | None = None,
    ) -> None:
        """Add one call of a stage."""
        dropped = Counter(str(reason) for reason in reasons)
        called = StageCount(num_in, num_out, dropped, busy_s, usage=dict(usage or {}))
        self.stages.setdefault(key, StageCount()).add(called)

    def wait(self, idle_s: float, first: StageKey) -> None:
        """Share out the seconds in which the actor was inside none of its stages.

        In proportion to each stage's busy seconds, so that busy / (busy + idle) of each is the
        share of time in which its actors worked, and all busy and idle seconds together are the
        actors' time. If no stage was busy, `first` waited: the stage that takes the records in.
        """
        busy_s = sum(stage.busy_s for stage in self.stages.values())
        if busy_s <= 0:
            self.stages.setdefault(first, StageCount()).idle_s += idle_s
            return
        for stage in self.stages.values():
            stage.idle_s += idle_s * stage.busy_s / busy_s

    def add(self, other: Counters) -> None:
        """Add all counts of another."""
        self.num_seeds += other.num_seeds
        for key, stage in other.stages.items():
            self.stages.setdefault(key, StageCount()).add(stage)

    def to_json(self) -> CountersJson:
        """As plain values for JSON."""
        return {
            "num_seeds": self.num_seeds,
            "stages": [
                {
                    "recipe": recipe,
                    "stage": name,
                    "num_in": stage.num_in,
                    "num_out": stage.num_out,
                    "dropped": dict(stage.reasons),
                    "busy_s": round(stage.busy_s, 3),
                    "idle_s": round(stage.idle_s, 3),
                    "usage": {name: round(value, 6) for name, value in stage.usage.items()},
                }
                for (recipe, name), stage in self.stages.items()
            ],
        }

    @classmethod
    def from_json(cls, value: CountersJson) -> Counters:
        """The counters that `to_json` gave."""
        counters = cls(num_seeds=value["num_seeds"])
        for row in value["stages"]:
            counters.stages[row["recipe"], row["stage"]] = StageCount(
                row["num_in"],
                row["num_out"],
                Counter(row["dropped"]),
                row["busy_s"],
                row["idle_s"],
                dict(row["usage"]),
            )
        return counters
