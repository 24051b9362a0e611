from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.files import Folder
from schemas.manifest import write_seeds
from schemas.shards import read_part
from tests.workers.fakes import Saboteur, chain, ref
from workers.chain import Chain
from workers.counters import Counters
from workers.worker import Assignment, Group, ShardState, ShardWorker

IDS = [f"s{i}" for i in range(10)]


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    folder = Folder.at(str(tmp_path))
    write_seeds(folder, 0, [ref(i) for i in IDS])
    return folder


def group(*chains: Chain, micro_batch: int = 3, index: int = 0, last: bool = True) -> Group:
    return Group(index, chains, "cpu", micro_batch, 60.0, last)


def rows(run: Folder) -> list[dict[str, object]]:
    return pa.concat_tables(read_part(run, 0)).to_pylist()


def work(run: Folder, *groups: Group, attempt: str = "a") -> ShardState:
    state = None
    for each in groups:
        worker = ShardWorker(Assignment(run, attempt, {}), each)
        if state is None:
            state = worker.first(0)
        else:
            before = groups[each.index - 1]
            row = pa.Table.from_pylist([state.to_row(before.chains)]).to_pylist()[0]
            state = ShardState.from_row(row, each.chains)
        worker.process(state)
        worker.close()
    assert state is not None
    return state


def test_a_part_is_ordered_by_seed_then_recipe_whatever_the_micro_batch(run):
    chains = chain(name="one"), chain(Saboteur(drops=("s4",)), name="two")
    work(run, group(*chains))
    by_three = rows(run)
    order = [(r["seed_id"], r["recipe"]) for r in by_three]
    assert order == sorted(order, key=lambda x: (IDS.index(x[0]), ["one", "two"].index(x[1])))
    assert len(order) == 10 * 3 + 9 * 3 + 1
    for micro_batch in (1, 4, 100):
        work(run, group(*chains, micro_batch=micro_batch))
        assert rows(run) == by_three


def test_two_groups_give_the_rows_of_one(run):
    whole = chain(Saboteur(raises=("s1",), drops=("s2",)))
    other = chain(name="other")
    work(run, group(whole, other))
    fused = rows(run)
    first = group(
        Chain(whole.origin, whole.links[:3]), Chain(other.origin, other.links[:5]), last=False
    )
    second = group(
        Chain(whole.origin, whole.links[3:]), Chain(other.origin, other.links[5:]), index=1
    )
    state = work(run, first, second)
    assert rows(run) == fused
    assert state.counters.num_seeds == 10
    assert state.counters.stages["fake", "lowest"].num_in == 8 * 3


def test_a_group_without_links_of_a_chain_passes_it_through(run):
    whole, other = chain(), chain(name="other")
    work(run, group(whole, other))
    fused = rows(run)
    first = group(Chain(whole.origin, whole.links[:3]), Chain(other.origin, ()), last=False)
    second = group(Chain(whole.origin, whole.links[3:]), other, index=1)
    # The second chain starts in the second group: until then its records are the manifest's.
    work(run, first, second)
    assert rows(run) == fused


class Clock:
    """Seconds that pass only while somebody sleeps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_busy_and_idle_seconds_are_the_workers_time(run, monkeypatch):
    clock = Clock()
    for module in ("workers.worker", "workers.chain"):
        monkeypatch.setattr(f"{module}.monotonic", clock)
    monkeypatch.setattr("tests.workers.fakes.time", clock)
    write_seeds(run, 1, [ref(f"t{i}") for i in range(4)])
    saboteur = Saboteur(sleep_s=0.02)
    heard = []
    worker = ShardWorker(
        Assignment(run, "a", {}), group(chain(saboteur)), lambda *said: heard.append(said)
    )
    total = Counters()
    for shard in (0, 1):
        clock.sleep(0.1)
        state = worker.first(shard)
        worker.process(state)
        total.add(state.counters)
    busy = sum(stage.busy_s for stage in total.stages.values())
    idle = sum(stage.idle_s for stage in total.stages.values())
    assert (busy, idle) == (pytest.approx(14 * 0.02), pytest.approx(0.2))
    saboteurs = total.stages["fake", "saboteur"]
    assert saboteurs.busy_s == pytest.approx(14 * 0.02)
    # The live counts say it, too, and grow towards it.
    live = [sum(s.idle_s for s in counters.stages.values()) for _, _, counters in heard]
    assert live[0] >= 0.1
    assert live[:4] == sorted(live[:4])


DIE = """
    from schemas.files import Folder
    from tests.workers.fakes import Saboteur, chain
    from tests.workers.test_worker import work, group
    from dataclasses import replace
    saboteur = Saboteur(exits=("s4",), hangs=("s7",))
    work(Folder.at({run!r}), replace(group(chain(saboteur)), time_limit_s=1.0),
         attempt={attempt!r})
"""


def die(run: Folder, attempt: str) -> int:
    code = textwrap.dedent(DIE.format(run=run.url, attempt=attempt))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    return done.returncode


def test_rows_that_exit_or_hang_are_found_and_only_they(run):
    statuses = []
    for _ in range(20):
        statuses.append(die(run, "the same driver"))
        if statuses[-1] == 0:
            break
    # For each: a death among three rows, then two alone; 70 says that the time limit struck.
    assert statuses == [1, 1, 1, 70, 70, 70, 0]
    reasons = {
        r["seed_id"]: (r["reason"], r["detail"]) for r in rows(run) if r["stage"] == "loader"
    }
    assert reasons == {
        "s4": ("crashed", "its process died, 2 times with this row alone in flight"),
        "s7": (
            "timed_out",
            "time limit of 1 s exceeded in saboteur, 2 times with this row alone in flight",
        ),
    }
    pairs = [r["seed_id"] for r in rows(run) if r["status"] == "pair"]
    assert pairs == [i for i in IDS if i not in ("s4", "s7")]
    assert run.names("strikes") == ["strikes-00000-0.json"]


def test_a_killed_driver_is_no_fault_of_the_rows_in_flight(run):
    # Every attempt is another driver: suspects are made, but nobody is ever struck.
    statuses = [die(run, f"attempt {i}") for i in range(4)]
    assert statuses == [1, 1, 1, 1]
    ledger = run.read_json("strikes/strikes-00000-0.json")
    assert ledger == {"strikes": {}, "causes": {}, "suspects": {"fake": ["s3", "s4", "s5"]}}


def test_an_exception_leaves_no_note_behind(run, monkeypatch):
    monkeypatch.setattr(
        "workers.worker.write_part", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        work(run, group(chain()))
    assert run.names("strikes") == []
    assert run.names("parts") == []


MIXED = """
    from schemas.files import Folder
    from tests.workers.fakes import Saboteur, chain
    from tests.workers.test_worker import work, group
    bad = chain(Saboteur(exits=("s4",)), name="bad")
    work(Folder.at({run!r}), group(chain(name="good"), bad), attempt="a")
"""


def test_a_row_that_kills_one_recipe_of_a_mix_keeps_its_pairs_of_the_others(run):
    code = textwrap.dedent(MIXED.format(run=run.url))
    command = [sys.executable, "-c", code]
    statuses = [subprocess.run(command, check=False).returncode for _ in range(4)]
    assert statuses == [1, 1, 1, 0]
    of_s4 = {(r["recipe"], r["status"]) for r in rows(run) if r["seed_id"] == "s4"}
    assert of_s4 == {("good", "pair"), ("good", "drop"), ("bad", "drop")}
    assert [r["reason"] for r in rows(run) if r["recipe"] == "bad" and r["seed_id"] == "s4"] == [
        "crashed"
    ]
