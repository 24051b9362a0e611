"""Order: every row once an epoch on whatever number of processes; the schedule by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from trainer.data.order import Order
from trainer.run.schedule import learning_rate
from trainer.settings import Optimizer


def order(rows, batch, micro=1, seed=5, *, rank=0, world=1, window=1):
    """Blocks of 4 rows, the last one of what is left; a window of 1 is a chunk a block."""
    blocks = np.array([4] * (rows // 4) + [rows % 4] * bool(rows % 4))
    return Order(blocks, batch, micro, seed, window, rank, world)


def shown(orders, step):
    """The rows of a step, over all processes."""
    return [row for one in orders for row in one.rows_of(step)]


@pytest.mark.parametrize("window", [1, 12, 10**6])
@pytest.mark.parametrize(
    ("rows", "batch", "micro", "world"),
    [(10, 4, 2, 1), (11, 4, 1, 3), (7, 7, 3, 2), (3, 8, 2, 4), (97, 6, 2, 4), (96, 6, 1, 2)],
)
def test_every_row_once_an_epoch_on_all_processes_together(rows, batch, micro, world, window):
    orders = [
        order(rows, batch, micro, rank=rank, world=world, window=window) for rank in range(world)
    ]
    steps = -(-rows // batch)
    for epoch in range(2):
        seen = Counter()
        for step in range(epoch * steps, (epoch + 1) * steps):
            plans = [order.micro_batches(step) for order in orders]
            # All do the same number of forwards, or those who do more would wait for ever.
            assert {len(plan) for plan in plans} == {orders[0].micro_batches_of(step)}
            counted = [sum(len(m.rows) for m in plan if m.counted) for plan in plans]
            assert sum(counted) == orders[0].size_of(step)
            whole = orders[0].size_of(step) == batch
            assert max(counted) - min(counted) <= (1 if whole else 2)
            for plan in plans:
                assert [m.last for m in plan] == [False] * (len(plan) - 1) + [True]
                for m in plan:
                    assert 1 <= len(m.rows) <= micro
                    assert m.epoch == epoch
                    seen.update(m.rows if m.counted else ())
        assert seen == Counter(range(rows))


@pytest.mark.parametrize("world", [2, 3, 5])
def test_processes_share_a_step_as_one_process_would_do_it_alone(world):
    shares = [order(97, 7, rank=rank, world=world, window=30) for rank in range(world)]
    for step in range(2 * 14):
        assert shown(shares, step) == shown([order(97, 7, window=30)], step)


def test_the_order_changes_with_epoch_and_seed_and_nothing_else():
    first = order(50, 50).rows_of(0)
    assert first == order(50, 50).rows_of(0)
    assert first != order(50, 50).rows_of(1)
    assert first != order(50, 50, seed=6).rows_of(0)
    late = order(97, 6, window=30)
    # Asked for out of order, as a resumed run does, and far away.
    assert late.rows_of(1000) == order(97, 6, window=30).rows_of(1000)
    assert late.rows_of(3) == order(97, 6, window=30).rows_of(3)


def test_what_fits_the_window_is_shuffled_as_a_whole():
    """Any row comes at any step, and beside any row of another block."""
    some = order(60, 6, window=60)
    places, company = np.zeros((60, 10)), np.zeros((60, 60))
    for step in range(10 * 600):
        rows = some.rows_of(step)
        places[rows, step % 10] += 1
        company[np.ix_(rows, rows)] += 1
    assert places.min() > 30
    assert places.max() < 95
    np.fill_diagonal(company, 1)
    # 54 times on average; rows of one block are kept apart, so they meet less often.
    assert company.min() > 0
    other = np.arange(60)[:, None] // 4 != np.arange(60) // 4
    assert 25 < company[other].min() < company[other].max() < 95


def test_a_chunk_is_whole_blocks_and_all_of_it_is_shown_soon():
    """Rows are read once for all that is shown of them; what is held stays within the window."""
    some = order(4 * 400, 8, window=96)
    chunks = {step: some.begun(step, resumed=False) for step in range(200)}
    assert sorted(row for rows in chunks.values() for row in rows) == list(range(1600))
    held: set[int] = set()
    blocks: Counter = Counter()
    most = 0
    for step in range(200):
        held |= set(chunks[step])
        blocks.update({row // 4 for row in chunks[step]})
        most = max(most, len(held))
        held -= set(some.rows_of(step))
    # 8 lanes have ends inside a block, which is read again there.
    assert 400 <= blocks.total() <= 400 + 8
    assert most <= 96 + 8 * 4
    # Lanes begin their chunks at different times: no step waits for all of them.
    assert max(len(rows) for step, rows in chunks.items() if step) <= 96 / 2
    # A run that resumes here reads what is left of the chunks that are open.
    assert set(order(4 * 400, 8, window=96).begun(100, resumed=True)) >= set(some.rows_of(100))


def test_ten_million_rows_cost_no_more_a_step():
    """A count, not a time: an epoch draws an order of blocks; a step, of a few rows."""
    blocks = np.full(156_250, 64)
    drawn = []

    class Counted(np.random.Generator):
        def permutation(self, x):
            drawn.append(x if isinstance(x, int) else len(x))
            return super().permutation(x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.random, "Generator", Counted)
        some = Order(blocks, 64, 1, 0, 8192, 3, 8)
        for step in range(300):
            some.micro_batches(step)
    assert drawn.count(156_250) == 1
    assert sum(drawn) - 156_250 < 3 * 2 * 300 * 64


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
