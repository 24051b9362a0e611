"""`RunFolder`: the one owner of a run directory's files on the driver's side.

    RUN/run.json  seeds/  parts/                     what to do, and what is done
    RUN/lease.json  strikes/                         while it runs
    RUN/data/  README.md  report.html  progress.json made from the parts at the end

Does not know recipes, engines or how a part is made. Workers write parts and strikes through
`schemas.shards` and `workers.guard`; everybody else asks this class.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.report import write_report
from pipeline.run_folder.audit import Audit, PartSummary, is_damaged
from pipeline.run_folder.card import card_text
from pipeline.run_folder.info import Identity, RunInfo
from schemas.files import Folder
from schemas.manifest import read_seeds
from schemas.records import SeedRef
from schemas.shards import PartError, part_name, read_pairs, read_part, write_data
from workers.guard import STRIKES

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
PROGRESS_FILE = "progress.json"
CARD_FILE = "README.md"
PARTS = "parts"


@dataclass(frozen=True)
class RunFolder:
    """A run directory that has its `run.json`."""

    folder: Folder
    """Where it is."""
    info: RunInfo
    """Content of `run.json`."""

    # run.json

    @classmethod
    def open(cls, url: str) -> RunFolder:
        """The run at a path or URL; UsageError if it is not a run directory of this version."""
        folder = Folder.at(url)
        if not folder.exists(RUN_FILE):
            raise UsageError(f"{folder.url} is not a run directory: it has no {RUN_FILE}")
        try:
            value = folder.read_json(RUN_FILE)
        except ValueError as error:
            raise UsageError(
                f"{folder.url}/{RUN_FILE} is damaged: {error}; use another --output"
            ) from None
        try:
            return cls(folder, RunInfo.from_json(value))
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"{folder.url}/{RUN_FILE} was written by another version of this project: {error}"
            ) from None

    @classmethod
    def create(cls, folder: Folder, info: RunInfo) -> RunFolder:
        """Write `run.json`, which makes the folder a run directory; the manifest must be whole."""
        folder.write_json(RUN_FILE, asdict(info))
        return cls(folder, info)

    @classmethod
    def find(cls, folder: Folder, identity: Identity, files: Mapping[str, str]) -> RunFolder | None:
        """The run that is in the folder already; None in a new folder.

        UsageError if it is of another identity or other `files` (see `RunInfo.check_same`), or if
        there are parts without a `run.json`.
        """
        if folder.exists(RUN_FILE):
            run = cls.open(folder.url)
            run.info.check_same(run.url, identity, files)
            return run
        if folder.names(PARTS):
            raise UsageError(
                f"{folder.url} holds parts but no {RUN_FILE}: it is not a run directory of this "
                "version; give another --output"
            )
        return None

    def forget_input(self) -> None:
        """Clear the place of the input, so that an interrupted second scan is repeated."""
        identity = replace(self.info.identity, input="")
        self.create(self.folder, replace(self.info, identity=identity))

    @property
    def url(self) -> str:
        """Path or URL."""
        return self.folder.url

    # Manifest and parts

    def seeds(self) -> Iterator[SeedRef]:
        """All rows of the manifest, in input order."""
        for shard in range(self.info.num_shards):
            yield from read_seeds(self.folder, shard)

    def outcomes(self) -> Iterator[pa.Table]:
        """All rows of a complete run's parts, row group by row group."""
        for shard in range(self.info.num_shards):
            yield from read_part(self.folder, shard)

    def audit(self, *, repair: bool = False) -> Audit:
        """Hold the parts against the manifest, shard by shard.

        With `repair`, which only the holder of the lease may ask for, parts that are damaged or do
        not account for exactly their seeds are removed. UsageError for a part of another recipe.
        """
        audit = Audit()
        present = self._present()
        for shard in range(self.info.num_shards):
            if shard not in present:
                audit.add_missing(shard, self.info.seeds_in(shard), [])
                continue
            expected = [ref.seed_id for ref in read_seeds(self.folder, shard)]
            part = PartSummary.read(self.folder, shard)
            missing = expected
            if part is not None:
                missing = part.missing_of(expected, self.info, self.folder.join(part_name(shard)))
            if part is not None and not missing:
                audit.add_part(part, len(expected))
                continue
            audit.add_missing(shard, len(missing), missing)
            if repair:
                self._remove_part(shard)
        return audit

    def remove_damaged(self) -> bool:
        """Read every page of every part and remove the damaged ones; whether any was."""
        damaged = [s for s in range(self.info.num_shards) if is_damaged(self.folder, s)]
        for shard in damaged:
            self._remove_part(shard)
        return bool(damaged)

    def remove_with_drops(self, reasons: AbstractSet[str]) -> None:
        """Remove parts that dropped a row for one of these reasons; strikes are forgotten, too."""
        for shard in sorted(self._present()):
            part = PartSummary.read(self.folder, shard)
            if part is not None and part.has_drop(reasons):
                self._remove_part(shard)
        self.folder.delete_folder(STRIKES)

    def _present(self) -> set[int]:
        """Shards that have a part, good or bad."""
        names = {f"{PARTS}/{name}" for name in self.folder.names(PARTS)}
        return {shard for shard in range(self.info.num_shards) if part_name(shard) in names}

    def _remove_part(self, shard: int) -> None:
        self.folder.delete(part_name(shard))

    # What is made from the parts

    def write_progress(self, audit: Audit, *, complete: bool) -> None:
        """Write `progress.json`: counts per stage, and whether data, card and report are made."""
        self.folder.write_json(
            PROGRESS_FILE,
            {
                "complete": complete,
                "num_seeds": self.info.num_seeds,
                "num_seeds_done": audit.num_seeds,
                "num_pairs": audit.num_pairs,
                "num_drops": audit.num_drops,
                "stages": audit.counters.to_json()["stages"],
            },
        )

    def is_finished(self) -> bool:
        """Whether data, card and report were made from all parts, and the data are still there."""
        if not self.folder.exists(PROGRESS_FILE):
            return False
        progress = self.folder.read_json(PROGRESS_FILE)
        has_data = self.folder.names("data") or not progress["num_pairs"]
        return bool(progress["complete"] and has_data)

    def finish(self, audit: Audit, attempt: str) -> bool:
        """Make data, card and report of a complete run from its parts. Safe to repeat.

        `attempt` names the driver in temporary file names. False if a part turned out damaged in
        what the audit does not read, the images; that part is then removed.
        """
        try:
            files = write_data(self.folder, range(self.info.num_shards), attempt)
        except PartError as error:
            if not is_damaged(self.folder, error.shard):
                raise
            self._remove_part(error.shard)
            return False
        self.folder.write(CARD_FILE, card_text(self.info, audit, self._licenses()).encode())
        self.write_report()
        self.folder.delete_folder(STRIKES)
        self.write_progress(audit, complete=True)
        log.info(
            "%d pairs from %d seeds in %d files: %s",
            audit.num_pairs,
            self.info.num_seeds,
            len(files),
            self.url,
        )
        return True

    def write_report(self) -> str:
        """Write `report.html`; returns its path or URL."""
        return write_report(self.url, self.info.report_facts())

    def _licenses(self) -> list[str]:
        """The distinct licences of the pairs."""
        tables = read_pairs(self.folder, ["license"])
        return sorted({name for table in tables for name in table["license"].to_pylist() if name})
