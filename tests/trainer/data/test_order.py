"""Order: every row once an epoch on whatever number of processes; the schedule by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from trainer.data.order import Order
from trainer.run.schedule import learning_rate
from trainer.settings import Optimizer


@pytest.mark.parametrize(
    ("rows", "batch", "micro", "world"), [(10, 4, 2, 1), (11, 4, 1, 3), (7, 7, 3, 2), (3, 8, 2, 4)]
)
def test_every_row_once_an_epoch_on_all_processes_together(rows, batch, micro, world):
    orders = [Order(rows, batch, micro, 5, rank, world) for rank in range(world)]
    steps = -(-rows // batch)
    for epoch in range(2):
        seen = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            plans = [order.micro_batches(step) for order in orders]
            # All do the same number of forwards, or those who do more would wait for ever.
            assert len({len(plan) for plan in plans}) == 1
            for plan in plans:
                assert [m.last for m in plan] == [False] * (len(plan) - 1) + [True]
                for m in plan:
                    assert 1 <= len(m.rows) <= micro
                    assert m.epoch == epoch
                    seen.update(m.rows if m.counted else ())
        assert seen == Counter(range(rows))


def test_processes_share_a_step_as_one_process_would_do_it_alone():
    alone = [r for m in Order(11, 4, 4, 5).micro_batches(1) for r in m.rows]
    shared = [
        row
        for rank in range(3)
        for m in Order(11, 4, 1, 5, rank, 3).micro_batches(1)
        for row in m.rows
        if m.counted
    ]
    assert sorted(alone) == sorted(shared)


def test_the_order_changes_with_epoch_and_seed_and_nothing_else():
    order = Order(50, 50, 1, 1)
    first = order.rows_of(0)[1].tolist()
    assert first == Order(50, 50, 1, 1).rows_of(0)[1].tolist()
    assert first != order.rows_of(1)[1].tolist()
    assert first != Order(50, 50, 1, 2).rows_of(0)[1].tolist()


def rates(schedule, warmup, steps):
    optimizer = Optimizer(learning_rate=2.0, schedule=schedule, warmup=warmup)
    return [learning_rate(optimizer, step, steps) for step in range(steps)]


def test_schedules_by_hand():
    assert rates("constant", 0.5, 4) == [1.0, 2.0, 2.0, 2.0]
    assert rates("linear", 0.0, 4) == [2.0, 1.5, 1.0, 0.5]
    assert rates("linear", 0.5, 4) == [1.0, 2.0, 2.0, 1.0]
    assert rates("cosine", 0.0, 4) == pytest.approx(
        [2.0, 1 + math.cos(math.pi / 4), 1.0, 1 - math.cos(math.pi / 4)]
    )


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 1.0])
def test_no_step_is_wasted(schedule, steps, warmup):
    assert all(0 < rate <= 2.0 for rate in rates(schedule, warmup, steps))
