"""What the benchmark scripts share: facts of the machine, medians, and runs that are timed."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import monotonic

# As the command line does, and before OpenCV is loaded.
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil

from pipeline.engine.choice import run_shards
from pipeline.engine.work import Work
from pipeline.version import code_version
from workers.counters import Counters


def header(title: str) -> str:
    """Title, date, machine, versions and command, as Markdown."""
    names = ("numpy", "opencv-contrib-python-headless", "pyarrow", "ray")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    memory = psutil.virtual_memory().total / 2**30
    # Scripts that import the tests' servers and models do not start without it.
    path = "PYTHONPATH=. " if os.environ.get("PYTHONPATH") else ""
    command = path + " ".join(["python", *sys.argv])
    return (
        f"# {title}\n\n{datetime.now(UTC):%Y-%m-%d}, code {code_version()}. "
        f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {_gpu()}; Python "
        f"{platform.python_version()}, {versions}.\n\n    {command}\n"
    )


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpu() -> str:
    """The GPU that the script may use: only torch does, and only where it is imported."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "no GPU"


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median with its range: "5.1 (4.9-5.3)"."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


class Clock:
    """A `Monitor` that notes when shards are done."""

    def __init__(self) -> None:
        """Start the clock."""
        self.started = monotonic()
        self.times: list[tuple[float, int]] = []

    def live(self, counts: dict[str, Counters]) -> None:
        """Ignored."""

    def done(self, shard: int, counters: Counters) -> None:  # noqa: ARG002  # see Monitor
        """Note the time and the seeds of a shard."""
        self.times.append((monotonic() - self.started, counters.num_seeds))

    @property
    def start_up_s(self) -> float:
        """Seconds until the first shard was done."""
        return self.times[0][0]

    def seeds_per_s(self, actors: int = 1) -> float:
        """Rate between the first shards of all actors and the last shard."""
        first = self.times[min(actors, len(self.times) - 1) - 1]
        last = self.times[-1]
        seeds = sum(n for _, n in self.times[actors:])
        return seeds / (last[0] - first[0])


def timed(work: Work, *, local: bool) -> Clock:
    """Run the shards and return when each was done."""
    clock = Clock()
    run_shards(work, clock, local=local)
    return clock


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="nearmiss-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def quiet() -> None:
    """Only warnings of our own."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


MEASURED = ("schemas", "stages", "workers", "pipeline", "trainer")
"""Folders of the product."""


def commit_is_clean() -> bool:
    """Whether the measured code is the commit that the header names."""
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--", *MEASURED],
        capture_output=True,
        text=True,
        check=True,
    )
    return not changed.stdout.strip()
