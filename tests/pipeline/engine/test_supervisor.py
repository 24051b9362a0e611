"""The supervisor of a stream, fed with what a status actor could say; no Ray is started."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.engine import supervisor as supervisor_module
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.engine.supervisor import NodesLostError, StreamSupervisor
from pipeline.errors import RunError, UsageError
from tests.workers.fakes import chain
from workers.actor import StreamStatus
from workers.chain import Chain
from workers.counters import Counters
from workers.failure import Failure
from workers.worker import Group


@dataclass
class Left:
    """Who is told."""

    shards: list[int] = field(default_factory=lambda: [0, 1, 2])
    heard: list[dict[str, Counters]] = field(default_factory=list)
    told: threading.Event = field(default_factory=threading.Event)

    def live(self, counts: dict[str, Counters]) -> None:
        self.heard.append(counts)
        self.told.set()


@dataclass
class Fed(StreamSupervisor):
    """A supervisor that is shown what the test says, on a cluster that the test describes."""

    status: StreamStatus | None = None
    fits: bool = True

    def __init__(self, left: Left, placement: Placement) -> None:
        whole = chain()
        cut = 3
        halves = (whole.links[:cut], whole.links[cut:])
        pools = [
            (Group(i, (Chain(whole.origin, links),), None, 4, 1.0, i == 1), spec, 2)
            for i, (links, spec) in enumerate(zip(halves, placement.groups, strict=True))
        ]
        super().__init__(None, left, pools, placement)

    def _poll(self) -> StreamStatus | None:
        return self.status

    def _fits(self) -> bool:
        return self.fits

    def _waiting(self, silent) -> str:
        return "waiting for " + ", ".join(str(group.index) for group, _ in silent)


def placement(**more) -> Placement:
    groups = [
        GroupPlacement(stages=["loader", "saboteur", "fan_out"], time_limit_s=0.2),
        GroupPlacement(time_limit_s=0.2),
    ]
    return Placement(groups=groups, **({"stall_limit_s": 1.2} | more))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(supervisor_module, "POLL_S", 0.02)
    monkeypatch.setattr(supervisor_module, "SILENT_S", 0.4)


def wait(supervisor: StreamSupervisor, seconds: float = 60.0) -> None:
    """What the driver does for the next row: wait on a lock, until the supervisor interrupts it."""
    with supervisor, pytest.raises(queue.Empty):
        queue.Queue().get(timeout=seconds)


COUNTS = Counters(num_seeds=1).to_json()
ALIVE = {0: 0.1, 1: 0.1}


def test_what_an_actor_reports_ends_the_wait_at_once():
    left, failure = Left(), Failure("stage a cannot be opened: no model", is_setup=True)
    supervisor = Fed(left, placement())
    supervisor.status = StreamStatus({"0-0": COUNTS}, ALIVE, failure)
    with pytest.raises(UsageError, match=r"^stage a cannot be opened: no model$"):
        wait(supervisor)
    assert left.heard[0] == {"0-0": Counters(num_seeds=1)}
    supervisor = Fed(left, placement())
    supervisor.status = StreamStatus({}, {}, Failure("down", is_setup=False))
    with pytest.raises(RunError, match=r"^down$"):
        wait(supervisor)
    assert isinstance(supervisor.failure(), RunError)


def test_the_main_thread_is_its_own_again_afterwards():
    before = signal.getsignal(signal.SIGUSR2)
    supervisor = Fed(Left(), placement())
    supervisor.status = StreamStatus({}, {}, Failure("down", is_setup=False))
    with pytest.raises(RunError):
        wait(supervisor)
    assert signal.getsignal(signal.SIGUSR2) == before
    assert not [t for t in threading.enumerate() if t.name == "supervisor"]
    # An error of the block itself is not replaced.
    with pytest.raises(KeyError), Fed(Left(), placement()):
        raise KeyError("mine")


def test_nothing_moves():
    supervisor = Fed(Left(), placement())
    supervisor.status = StreamStatus({"0-0": COUNTS}, ALIVE, None)
    said = r"^nothing has moved for 1 s .stall_limit_s of the placement.: every group has a living"
    with pytest.raises(RunError, match=said):
        wait(supervisor)


class Moving(Fed):
    """Another seed is done at every poll."""

    def _poll(self) -> StreamStatus:
        self.seeds = getattr(self, "seeds", 0) + 1
        return StreamStatus({"0-0": Counters(num_seeds=self.seeds).to_json()}, ALIVE, None)


def test_what_moves_is_left_alone():
    wait(Moving(Left(), placement()), 2.0)


@pytest.mark.parametrize(
    ("quiet", "fits", "autoscale", "error", "said"),
    [
        # A group without actors, and not enough resources for all: its node was lost.
        ({0: 9.0, 1: 0.1}, False, False, NodesLostError, "waiting for 0"),
        ({0: 0.1, 1: 9.0}, False, False, NodesLostError, "waiting for 1"),
        # Never heard of: another job holds what it needs, so that smaller pools would not help.
        ({0: 0.1}, True, False, RunError, "nothing has moved .* waiting for 1"),
        # A node was lost, but everybody has an actor: what is slow is not lost.
        ({0: 0.1, 1: 0.1}, False, False, RunError, "nothing has moved"),
        # The cluster grows by itself: machines take their time.
        ({0: 0.1, 1: 9.0}, False, True, None, ""),
    ],
)
def test_a_group_without_actors(quiet, fits, autoscale, error, said):
    supervisor = Fed(Left(), placement(autoscale=autoscale))
    supervisor.status, supervisor.fits = StreamStatus({"0-0": COUNTS}, quiet, None), fits
    if error is None:
        wait(supervisor, 2.0)
        return
    with pytest.raises(error, match=said):
        wait(supervisor)


def test_a_group_whose_work_is_done_may_be_silent():
    left = Left([0, 1])
    supervisor = Fed(left, placement())
    # Both shards that are left have come to the second group.
    supervisor.status = StreamStatus(
        {"0-0": COUNTS, "0-1": COUNTS, "1-1": COUNTS}, {0: 9.0, 1: 0.1}, None
    )
    supervisor.fits = False
    with pytest.raises(RunError, match="every group has a living actor"):
        wait(supervisor)


def test_a_verdict_that_comes_with_the_last_row_changes_nothing():
    left = Left([])
    supervisor = Fed(left, placement())
    supervisor.status = StreamStatus({}, {}, Failure("too late", is_setup=False))
    with supervisor:
        assert left.told.wait(60)


def test_it_works_in_the_background_of_a_shell(tmp_path):
    """A shell without job control starts what runs in the background with SIGINT ignored."""
    code = """
        import sys
        from pipeline.errors import RunError
        from tests.pipeline.engine.test_supervisor import ALIVE, Failure, Fed, Left, StreamStatus
        from tests.pipeline.engine.test_supervisor import placement, wait
        supervisor = Fed(Left(), placement())
        supervisor.status = StreamStatus({}, ALIVE, Failure("down", is_setup=False))
        try:
            wait(supervisor)
        except RunError as error:
            print(error)
    """
    file = tmp_path / "it.py"
    file.write_text(textwrap.dedent(code))
    out = tmp_path / "out"
    shell = f"{sys.executable} {file} > {out} 2>&1 &\nwait"
    subprocess.run(["sh", "-c", shell], check=True, timeout=300, cwd=Path(__file__).parents[3],
                   env={"PYTHONPATH": "."})  # fmt: skip
    assert out.read_text() == "down\n"
