"""Counts of what happened to rows, per recipe and stage; they add up over shards and processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

StageKey = tuple[str, str]
"""(recipe, stage)."""


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

    @property
    def num_dropped(self) -> int:
        """Records dropped."""
        return self.reasons.total()


@dataclass
class Counters:
    """Counts per stage, in the order in which the stages first ran."""

    stages: dict[StageKey, StageCount] = field(default_factory=dict)
    """Counts by (recipe, stage)."""
    num_seeds: int = 0
    """Seeds done, whatever became of them."""

    def count(
        self, key: StageKey, *, num_in: int, num_out: int, reasons: Iterable[str], busy_s: float
    ) -> None:
        """Add one call of a stage."""
        stage = self.stages.setdefault(key, StageCount())
        stage.num_in += num_in
        stage.num_out += num_out
        stage.reasons.update(str(reason) for reason in reasons)
        stage.busy_s += busy_s

    def add(self, other: Counters) -> None:
        """Add all counts of another."""
        self.num_seeds += other.num_seeds
        for key, stage in other.stages.items():
            mine = self.stages.setdefault(key, StageCount())
            mine.num_in += stage.num_in
            mine.num_out += stage.num_out
            mine.reasons.update(stage.reasons)
            mine.busy_s += stage.busy_s

    def to_json(self) -> dict[str, Any]:
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
                }
                for (recipe, name), stage in self.stages.items()
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Counters:
        """The counters that `to_json` gave."""
        counters = cls(num_seeds=value["num_seeds"])
        for row in value["stages"]:
            counters.stages[row["recipe"], row["stage"]] = StageCount(
                row["num_in"], row["num_out"], Counter(row["dropped"]), row["busy_s"]
            )
        return counters
