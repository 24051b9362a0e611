from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Drop, Reason, Seed
from stages.base import CpuBackend, Device, Stage
from tests.workers.fakes import FanOut, Lowest, Saboteur, chain, ref
from workers.chain import ChainRunner, Link, StageContractError
from workers.counters import Counters
from workers.failure import Failure, OpenError, failure_of

IDS = [f"s{i}" for i in range(10)]


def run(links_of, ids=IDS):
    runner = ChainRunner(links_of, Counters())
    runner.open(Device())
    live, outcomes = runner.run([ref(i) for i in ids])
    return live, outcomes, runner


def test_every_record_is_a_pair_or_a_drop_and_counted():
    live, outcomes, runner = run(chain(Saboteur(drops=("s3",))))
    assert [r.verified.candidate.seed.seed_id for r in live] == [i for i in IDS if i != "s3"]
    assert Counter(o.drop.reason for o in outcomes) == {
        Reason.NO_REGION: 1,
        Reason.NOT_SELECTED: 18,
    }
    count = runner.counters.stages["fake", "fan_out"]
    assert (count.num_in, count.num_out) == (9, 27)
    count = runner.counters.stages["fake", "lowest"]
    assert (count.num_in, count.num_out, count.reasons["not_selected"]) == (27, 9, 18)


@given(st.sets(st.sampled_from(IDS)), st.sets(st.sampled_from(IDS)))
def test_rows_that_raise_are_isolated_and_the_others_do_not_notice(raising, dropping):
    sabotaged, outcomes, _ = run(chain(Saboteur(raises=tuple(raising), drops=tuple(dropping))))
    healthy, _, _ = run(chain())
    bad = raising | dropping
    assert sabotaged == [r for r in healthy if r.verified.candidate.seed.seed_id not in bad]
    errors = {o.seed_id: o.drop for o in outcomes if o.drop.reason == Reason.MODEL_ERROR}
    assert set(errors) == raising
    assert all(f"cannot do {i} [process fakes.py:" in drop.detail for i, drop in errors.items())


def test_out_of_memory_halves_the_batch_and_remembers():
    saboteur = Saboteur(most_rows=3)
    live, _, runner = run(chain(saboteur))
    assert len(live) == 10
    assert [len(call) for call in saboteur.calls] == [10, 5, 2, 3, 5, 2, 3]
    saboteur.calls.clear()
    runner.run([ref(f"t{i}") for i in range(4)])
    assert [len(call) for call in saboteur.calls] == [2, 2]


def test_a_row_that_alone_does_not_fit_is_dropped():
    live, outcomes, _ = run(chain(Saboteur(most_rows=0)), IDS[:3])
    assert live == []
    assert [o.drop.reason for o in outcomes] == [Reason.OUT_OF_MEMORY] * 3


def test_a_choice_that_raises_drops_the_seed_and_no_other():
    whole = chain()
    links = [replace(x, stage=Lowest("s2")) if x.name == "lowest" else x for x in whole.links]
    live, outcomes, _ = run(replace(whole, links=tuple(links)))
    assert len(live) == 9
    failed = [o for o in outcomes if o.drop.reason == Reason.MODEL_ERROR]
    assert [(o.seed_id, o.stage) for o in failed] == [("s2", "lowest")] * 3


@dataclass(frozen=True)
class Breaker(Stage[Seed, Seed]):
    consumes: ClassVar[type] = Seed
    produces: ClassVar[type] = Seed
    gives: str = "few"

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Seed] | Drop]:
        results = {
            "few": [[seed] for seed in batch][1:],
            "empty": [[] for _ in batch],
            "none": [None for _ in batch],
            "other": [["not a seed"] for _ in batch],
        }
        return results[self.gives]  # type: ignore[return-value]


@pytest.mark.parametrize("gives", ["few", "empty", "none", "other"])
def test_a_stage_that_breaks_its_contract_stops_the_run(gives):
    whole = chain()
    links = (whole.links[0], Link("breaker", Breaker(gives)), *whole.links[2:])
    with pytest.raises(StageContractError, match="stage breaker gave"):
        run(replace(whole, links=links))


@dataclass(frozen=True)
class Heavy(FanOut):
    log: tuple[list[str], ...] = ([],)
    fails: bool = False

    def open(self, device: Device) -> None:
        self.log[0].append(f"open {device.name}")
        if self.fails:
            raise RuntimeError("no such device")

    def close(self) -> None:
        self.log[0].append("close")


def test_stages_are_opened_on_the_device_and_closed_even_if_one_fails():
    good, bad = Heavy(log=([],)), Heavy(log=([],), fails=True)
    links = (Link("good", good), Link("bad", bad))
    with pytest.raises(OpenError, match="bad") as caught:
        ChainRunner(replace(chain(), links=links), Counters()).open(Device("cuda:0"))
    assert failure_of(caught.value) == Failure(
        "stage bad cannot be opened: RuntimeError: no such device", is_setup=False
    )
    assert good.log[0] == ["open cuda:0", "close"]
    assert bad.log[0] == ["open cuda:0", "close"]


def test_counters_add_up_and_survive_json():
    a, b = Counters(num_seeds=2), Counters(num_seeds=3)
    a.count(("r", "x"), num_in=3, num_out=2, reasons=[Reason.BAD_BOX], busy_s=1.5)
    b.count(("r", "x"), num_in=1, num_out=0, reasons=[Reason.BAD_BOX], busy_s=0.5)
    b.count(("r", "y"), num_in=9, num_out=9, reasons=[], busy_s=0.25, usage={"requests": 2})
    b.wait(1.5, ("r", "x"))
    a.add(b)
    assert a.num_seeds == 5
    stage = a.stages["r", "x"]
    assert (stage.num_in, stage.num_out, stage.num_dropped, stage.busy_s) == (4, 2, 2, 2.0)
    assert Counters.from_json(a.to_json()) == a
    assert a.to_json()["stages"][0]["dropped"] == {"bad_box": 2}
    a.add(b)
    assert a.stages["r", "y"].usage == {"requests": 4}


def test_idle_time_is_dealt_out_by_busy_time():
    counters = Counters()
    counters.count(("r", "x"), num_in=1, num_out=1, reasons=[], busy_s=3.0)
    counters.count(("r", "y"), num_in=1, num_out=1, reasons=[], busy_s=1.0)
    counters.count(("r", "z"), num_in=1, num_out=1, reasons=[])
    counters.wait(2.0, ("r", "x"))
    assert [stage.idle_s for stage in counters.stages.values()] == [1.5, 0.5, 0.0]
    # An actor to which only empty shards came: it is the first stage that waited.
    counters = Counters()
    counters.wait(2.0, ("r", "y"))
    assert counters.stages["r", "y"].idle_s == 2.0


@dataclass(eq=False)
class Meter(CpuBackend):
    """Counts what it is asked for, as a paid endpoint would."""

    num: int = 0
    name: str = "meter"

    def usage(self) -> dict[str, float]:
        return {"requests": self.num, "cost_usd": self.num / 10}


@dataclass(frozen=True)
class Metered(Breaker):
    meters: tuple[Meter, ...] = ()

    def backends(self) -> Sequence[Meter]:
        return self.meters

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Seed] | Drop]:
        for meter in self.meters:
            meter.num += len(batch)
        if len(batch) > 2:
            raise RuntimeError("asked for nothing")
        return [[seed] for seed in batch]


def test_what_backends_used_is_counted_by_stage_even_for_calls_that_raised():
    shared, own = Meter(num=1000), Meter()
    whole = chain()
    links = (
        whole.links[0],
        Link("ask", Metered(meters=(shared, own))),
        Link("ask_again", Metered(meters=(shared,))),
        *whole.links[2:],
    )
    _, _, runner = run(replace(whole, links=links), IDS[:4])
    # Four rows at once, which raises, then twice two.
    assert runner.counters.stages["fake", "ask"].usage == pytest.approx(
        {"requests": 16, "cost_usd": 1.6}
    )
    assert runner.counters.stages["fake", "ask_again"].usage["requests"] == 8
    assert runner.counters.stages["fake", "fan_out"].usage == {}
    assert Counters.from_json(runner.counters.to_json()).stages["fake", "ask"].usage[
        "cost_usd"
    ] == pytest.approx(1.6)
