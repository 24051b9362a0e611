"""The driver's watch over a stream, fed with what a board could show; no Ray is started."""

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

from pipeline.engine import ray_watch
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.engine.ray_watch import NodesLostError, Watch
from pipeline.errors import RunError, UsageError
from tests.workers.fakes import chain
from workers.actor import Seen
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
class Fed(Watch):
    """A watch that is shown what the test says, on a cluster that the test describes."""

    seen: Seen | None = None
    room: bool = True

    def __init__(self, left: Left, placement: Placement) -> None:
        whole = chain()
        cut = 3
        halves = (whole.links[:cut], whole.links[cut:])
        pools = [
            (Group(i, (Chain(whole.origin, links),), None, 4, 1.0, i == 1), spec, 2)
            for i, (links, spec) in enumerate(zip(halves, placement.groups, strict=True))
        ]
        super().__init__(None, left, pools, placement)

    def _look(self) -> Seen | None:
        return self.seen

    def _room(self) -> bool:
        return self.room

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
    monkeypatch.setattr(ray_watch, "LOOK_S", 0.02)
    monkeypatch.setattr(ray_watch, "SILENT_S", 0.4)


def wait(watch: Watch, seconds: float = 60.0) -> None:
    """What the driver does for the next row: wait on a lock, until the watch interrupts it."""
    with watch, pytest.raises(queue.Empty):
        queue.Queue().get(timeout=seconds)


COUNTS = Counters(num_seeds=1).to_json()
ALIVE = {0: 0.1, 1: 0.1}


def test_what_an_actor_reports_ends_the_wait_at_once():
    left, failure = Left(), Failure("stage a cannot be opened: no model", is_setup=True)
    watch = Fed(left, placement())
    watch.seen = Seen({"0-0": COUNTS}, ALIVE, failure)
    with pytest.raises(UsageError, match=r"^stage a cannot be opened: no model$"):
        wait(watch)
    assert left.heard[0] == {"0-0": Counters(num_seeds=1)}
    watch = Fed(left, placement())
    watch.seen = Seen({}, {}, Failure("down", is_setup=False))
    with pytest.raises(RunError, match=r"^down$"):
        wait(watch)
    assert isinstance(watch.ask(), RunError)


def test_the_main_thread_is_its_own_again_afterwards():
    before = signal.getsignal(signal.SIGUSR2)
    watch = Fed(Left(), placement())
    watch.seen = Seen({}, {}, Failure("down", is_setup=False))
    with pytest.raises(RunError):
        wait(watch)
    assert signal.getsignal(signal.SIGUSR2) == before
    assert not [t for t in threading.enumerate() if t.name == "watch"]
    # An error of the block itself is not replaced.
    with pytest.raises(KeyError), Fed(Left(), placement()):
        raise KeyError("mine")


def test_nothing_moves():
    watch = Fed(Left(), placement())
    watch.seen = Seen({"0-0": COUNTS}, ALIVE, None)
    said = r"^nothing has moved for 1 s .stall_limit_s of the placement.: every group has an actor"
    with pytest.raises(RunError, match=said):
        wait(watch)


class Moving(Fed):
    """Another seed is done at every look."""

    def _look(self) -> Seen:
        self.seeds = getattr(self, "seeds", 0) + 1
        return Seen({"0-0": Counters(num_seeds=self.seeds).to_json()}, ALIVE, None)


def test_what_moves_is_left_alone():
    wait(Moving(Left(), placement()), 2.0)


@pytest.mark.parametrize(
    ("quiet", "room", "autoscale", "error", "said"),
    [
        # A group without actors, and no room for all: its node was lost.
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
def test_a_group_without_actors(quiet, room, autoscale, error, said):
    watch = Fed(Left(), placement(autoscale=autoscale))
    watch.seen, watch.room = Seen({"0-0": COUNTS}, quiet, None), room
    if error is None:
        wait(watch, 2.0)
        return
    with pytest.raises(error, match=said):
        wait(watch)


def test_a_group_whose_work_is_done_may_be_silent():
    left = Left([0, 1])
    watch = Fed(left, placement())
    # Both shards that are left have come to the second group.
    watch.seen = Seen({"0-0": COUNTS, "0-1": COUNTS, "1-1": COUNTS}, {0: 9.0, 1: 0.1}, None)
    watch.room = False
    with pytest.raises(RunError, match="every group has an actor that lives"):
        wait(watch)


def test_a_verdict_that_comes_with_the_last_row_changes_nothing():
    left = Left([])
    watch = Fed(left, placement())
    watch.seen = Seen({}, {}, Failure("too late", is_setup=False))
    with watch:
        assert left.told.wait(60)


def test_it_works_in_the_background_of_a_shell(tmp_path):
    """A shell without job control starts what runs in the background with SIGINT ignored."""
    code = """
        import sys
        from pipeline.errors import RunError
        from tests.pipeline.engine.test_ray_watch import ALIVE, Failure, Fed, Left, Seen
        from tests.pipeline.engine.test_ray_watch import placement, wait
        watch = Fed(Left(), placement())
        watch.seen = Seen({}, ALIVE, Failure("down", is_setup=False))
        try:
            wait(watch)
        except RunError as error:
            print(error)
    """
    file = tmp_path / "it.py"
    file.write_text(textwrap.dedent(code))
    out = tmp_path / "out"
    shell = f"{sys.executable} {file} > {out} 2>&1 &\nwait"
    subprocess.run(["sh", "-c", shell], check=True, timeout=60, cwd=Path(__file__).parents[3],
                   env={"PYTHONPATH": "."})  # fmt: skip
    assert out.read_text() == "down\n"
