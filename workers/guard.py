"""Finds the row that kills or hangs its process, by notes kept outside the process.

Before a micro-batch starts, the ids of its seeds are noted in the run directory. A worker that
finds such a note when it begins the shard knows that its predecessor died there:

* several seeds were in flight: they become *suspects* and run one at a time from now on;
* one seed was in flight: it gets a *strike*; at two strikes it is quarantined, that is, dropped.

A driver that was killed takes its workers with it, and the seeds in flight are innocent. So a
strike is given only where the note is of the same attempt, that is, of the same driver.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

from schemas.files import Folder
from schemas.records import Drop, Reason

log = logging.getLogger(__name__)

STRIKES = "strikes"
"""Sub-folder of the run directory that the notes are in."""

STRIKES_TO_QUARANTINE = 2
"""One death may be a coincidence (a pre-empted machine); two in the same single row are not."""

EXIT_TIME_LIMIT = 70
"""Exit status of a process that was ended because a stage did not come back."""


@dataclass
class InFlightLog:
    """The notes of one shard in one actor group. Strikes are counted per recipe."""

    run: Folder
    """The run directory."""
    name: str
    """Names the shard and the group: "00017-0"."""
    attempt: str
    """Identity of the driver process."""
    _strikes: dict[str, dict[str, int]] = field(default_factory=dict, init=False)
    """By recipe, the strikes of every seed that has some."""
    _causes: dict[str, dict[str, str]] = field(default_factory=dict, init=False)
    _suspects: dict[str, list[str]] = field(default_factory=dict, init=False)
    """By recipe, the seeds that were in flight together when a process died."""
    _in_flight: dict[str, object] = field(default_factory=dict, init=False)

    @property
    def _note(self) -> str:
        return f"{STRIKES}/inflight-{self.name}.json"

    @property
    def _ledger(self) -> str:
        return f"{STRIKES}/strikes-{self.name}.json"

    def recover(self) -> None:
        """Read the ledger, and turn a note left by a dead predecessor into suspects or a strike."""
        if self.run.exists(self._ledger):
            ledger = self.run.read_json(self._ledger)
            self._strikes, self._causes = ledger["strikes"], ledger["causes"]
            self._suspects = ledger["suspects"]
        if not self.run.exists(self._note):
            return
        note = self.run.read_json(self._note)
        # First, so that a death between these lines forgets a strike instead of giving it twice.
        self.run.delete(self._note)
        recipe, seeds = note["recipe"], note["seeds"]
        suspects = self._suspects.setdefault(recipe, [])
        if len(seeds) > 1:
            log.warning("a process died with %d rows in flight; they now run singly", len(seeds))
        elif note["attempt"] == self.attempt:
            (seed,) = seeds
            strikes = self._strikes.setdefault(recipe, {})
            strikes[seed] = strikes.get(seed, 0) + 1
            cause = note.get("cause") or "its process died"
            self._causes.setdefault(recipe, {})[seed] = cause
            log.warning("row %s in %s: strike %d (%s)", seed, recipe, strikes[seed], cause)
        suspects += [seed for seed in seeds if seed not in suspects]
        self.run.write_json(
            self._ledger,
            {"strikes": self._strikes, "causes": self._causes, "suspects": self._suspects},
        )

    @property
    def has_suspects(self) -> bool:
        """Whether a process died over this shard, and the row is not yet found."""
        return any(self._suspects.values())

    def runs_alone(self, recipe: str, seed_id: str) -> bool:
        """Whether a seed was in flight at a death, so that it must run alone."""
        return seed_id in self._suspects.get(recipe, ())

    def quarantined(self, recipe: str, seed_id: str) -> Drop | None:
        """The drop of a row that has struck out."""
        strikes = self._strikes.get(recipe, {}).get(seed_id, 0)
        if strikes < STRIKES_TO_QUARANTINE:
            return None
        cause = self._causes[recipe][seed_id]
        reason = Reason.TIMED_OUT if "time limit" in cause else Reason.CRASHED
        return Drop(reason, f"{cause}, {strikes} times with this row alone in flight")

    def start(self, recipe: str, seed_ids: Sequence[str]) -> None:
        """Note that these seeds, and no others, are in flight from now on."""
        self._in_flight = {"attempt": self.attempt, "recipe": recipe, "seeds": list(seed_ids)}
        self._write_note()

    def blame(self, cause: str) -> None:
        """Add to the note why this process is about to die."""
        self._in_flight["cause"] = cause
        self._write_note()

    def _write_note(self) -> None:
        # No fsync: the note must outlive this process, not the machine.
        self.run.write(self._note, json.dumps(self._in_flight).encode(), durable=False)

    def close(self) -> None:
        """Leave the shard alive: remove the note; the ledger stays only if a row struck out."""
        self.run.delete(self._note)
        most = max((n for seeds in self._strikes.values() for n in seeds.values()), default=0)
        if most < STRIKES_TO_QUARANTINE:
            self.run.delete(self._ledger)


class Watchdog:
    """Ends the process when a call does not come back in time.

    A call that hangs inside a library cannot be interrupted from Python; ending the process always
    works, and the in-flight log finds the row. A call that hangs with the interpreter's lock held
    (a regular expression that explodes) keeps this class's thread from running, too; then a timer
    of the interpreter itself, which needs no lock, ends the process a little later.
    """

    def __init__(self, limit_s: float, on_expiry: Callable[[str], None]) -> None:
        """`limit_s` is for one call into a stage; `on_expiry` is told why, just before the end."""
        self._limit_s = limit_s
        self._on_expiry = on_expiry
        self._deadline: float | None = None
        self._what = ""
        self._changed = threading.Condition()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Watch the block."""
        with self._changed:
            self._deadline, self._what = monotonic() + self._limit_s, what
            self._changed.notify()
        faulthandler.dump_traceback_later(
            1.2 * self._limit_s + 2, exit=True, file=sys.__stderr__ or sys.stderr
        )
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            with self._changed:
                self._deadline = None

    def _watch(self) -> None:
        with self._changed:
            while True:
                if self._deadline is None:
                    self._changed.wait()
                elif (left := self._deadline - monotonic()) > 0:
                    self._changed.wait(left)
                else:
                    self._expire()

    def _expire(self) -> None:
        cause = f"time limit of {self._limit_s:g} s exceeded in {self._what}"
        try:
            log.error("%s; this process ends now", cause)
            self._on_expiry(cause)
            faulthandler.dump_traceback(file=sys.__stderr__ or sys.stderr)
        finally:
            # Whatever failed above (a full disk, a closed stream): it must not hang on.
            os._exit(EXIT_TIME_LIMIT)
