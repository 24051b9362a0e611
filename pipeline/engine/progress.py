"""Progress for a person: a live table on a terminal, one line a minute in a log file."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from pipeline.engine.counts import TROUBLE, by_recipe, cost_usd, recipe_table, stage_table, used
from pipeline.engine.placement import Placement
from schemas.records import Reason
from workers.counters import Counters, StageCount, StageKey

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
SURELY_NOT_FOUND = 50
"""After so many missing images in a row the image root is wrong, not the data."""


class ErrorShareError(RuntimeError):
    """A stage fails on so many rows that the rest of the run would be wasted."""


@dataclass
class Progress:
    """Adds up what the workers count, shows it, and stops a run in which a stage keeps failing.

    A `Monitor` for the engines; use it as a context manager while they run.
    """

    num_seeds: int
    """Seeds of the whole run."""
    num_shards: int
    """Shards of the whole run."""
    before: Counters
    """Counts of the parts that were there before this attempt."""
    shards_before: int
    """Number of these parts."""
    placement: Placement
    """Limits on errors."""
    stages: Sequence[StageKey]
    """Every (recipe, stage) of the run, in order."""
    console: Console = field(default_factory=lambda: Console(stderr=True))
    """Where the live table goes, if it is a terminal."""
    _finished: Counters = field(default_factory=Counters, init=False)
    _live: dict[str, Counters] = field(default_factory=dict, init=False)
    _shards: set[int] = field(default_factory=set, init=False)
    _started: float = field(default_factory=monotonic, init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)
    _display: Live | None = field(default=None, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _failure: str | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        """Start to show."""
        if self.console.is_terminal:
            self._display = Live(
                get_renderable=self.now,
                console=self.console,
                refresh_per_second=2,
                transient=True,
            )
            self._display.start()
            # The display put a stream there that prints above it; what is logged goes there too.
            _log_to_stderr()
        else:
            threading.Thread(target=self._log, name="progress-log", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing; the last state stays."""
        self._stop.set()
        if self._display is None:
            log.info("%s", self.line())
            return
        self._display.stop()
        _log_to_stderr()
        total = self.total()
        head = Text(self.line(), style="bold")
        self.console.print(head, stage_table(total), *map(Text, used(total)), sep="\n")

    def live(self, counts: dict[str, Counters]) -> None:
        """See `Monitor`."""
        with self._lock:
            self._live = {
                key: counters
                for key, counters in counts.items()
                if int(key.partition("-")[0]) not in self._shards
            }
            self._check_errors()

    def done(self, shard: int, counters: Counters) -> None:
        """See `Monitor`; raises ErrorShareError."""
        with self._lock:
            self._shards.add(shard)
            self._finished.add(counters)
            self._live = {
                key: c for key, c in self._live.items() if int(key.partition("-")[0]) != shard
            }
            self._check_errors()
            if self._failure is not None:
                raise ErrorShareError(self._failure)

    def total(self) -> Counters:
        """All counts: of earlier attempts, of finished shards, and of those in work."""
        with self._lock:
            total = Counters({key: StageCount() for key in self.stages})
            for counters in (self.before, self._finished, *self._live.values()):
                total.add(counters)
            return total

    def _check_errors(self) -> None:
        """Note a stage whose error share, in this attempt, is over the placement's limit."""
        now = Counters()
        for counters in (self._finished, *self._live.values()):
            now.add(counters)
        for (recipe, stage), count in now.stages.items():
            if count.num_in == count.reasons[Reason.IMAGE_NOT_FOUND] >= SURELY_NOT_FOUND:
                self._failure = (
                    f"not one of the first {count.num_in} images was found; give --image-root, and "
                    "paths that are there on every node"
                )
            errors = sum(count.reasons[reason] for reason in TROUBLE)
            limit = self.placement.max_error_share
            if errors >= self.placement.min_errors and errors > limit * count.num_in:
                self._failure = (
                    f"stage {stage} of recipe {recipe} failed on {errors} of {count.num_in} "
                    f"records, more than max_error_share {limit:g}; see the drops' detail in "
                    "parts/, mend the cause, and rerun with --retry-errors"
                )

    def _rate_and_eta(self, done: int) -> tuple[float, float | None]:
        """Seeds a second in this attempt, and seconds to go (None while nothing is known)."""
        new = done - self.before.num_seeds
        elapsed = monotonic() - self._started
        rate = new / elapsed if elapsed > 0 else 0.0
        left = self.num_seeds - done
        return rate, left / rate if rate > 0 else (0.0 if left == 0 else None)

    def line(self) -> str:
        """The state in one line."""
        total = self.total()
        rate, eta = self._rate_and_eta(total.num_seeds)
        pairs = sum(recipe.num_out for recipe in by_recipe(total).values())
        dropped = sum(count.num_dropped for count in total.stages.values())
        shards = self.shards_before + len(self._shards)
        cost = f"{paid:,.2f} USD, " if (paid := cost_usd(total)) else ""
        return (
            f"{total.num_seeds:,}/{self.num_seeds:,} seeds, {shards:,}/{self.num_shards:,} shards, "
            f"{pairs:,} pairs, {dropped:,} drops, {cost}{rate:.1f} seeds/s, ETA {_clock(eta)}"
        )

    def now(self) -> RenderableType:
        """The state for the live display: by stage, or by recipe if that is too high for it."""
        total = self.total()
        head = Text(self.line(), style="bold")
        foot = [Text(line, no_wrap=True, overflow="ellipsis") for line in used(total)]
        height = len(self.stages) + len({recipe for recipe, _ in self.stages}) + 4 + len(foot)
        fits = height <= self.console.height
        return Group(head, *([stage_table(total), *foot] if fits else [recipe_table(total)]))

    def _log(self) -> None:
        while not self._stop.wait(LOG_EVERY_S):
            log.info("%s", self.line())


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _log_to_stderr() -> None:
    """Let the command's log handler write to what is standard error now."""
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setStream(sys.stderr)
