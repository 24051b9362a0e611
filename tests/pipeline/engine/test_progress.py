from __future__ import annotations

import io
import logging
import re
import sys
import time

import pytest
from rich.console import Console

from pipeline.engine import progress as module
from pipeline.engine.counts import used
from pipeline.engine.placement import Placement
from pipeline.engine.progress import ErrorShareError, Progress
from pipeline.run import run
from tests.pipeline.harness import Bench, Trouble
from workers.counters import Counters

STAGES = [("one", "loader"), ("one", "cutter"), ("one", "masker"), ("two", "loader")]


def screen(width=100, height=40, *, terminal=False):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=terminal)


def progress(**more):
    wanted = {
        "num_seeds": 40,
        "num_shards": 4,
        "before": Counters(),
        "shards_before": 0,
        "placement": Placement(),
        "stages": STAGES,
        "console": screen(),
    }
    return Progress(**(wanted | more))


def counted(num_seeds, *stages):
    """Counters of (recipe, stage, in, out, reasons, seconds) of every stage."""
    counters = Counters(num_seeds=num_seeds)
    for recipe, stage, num_in, num_out, reasons, busy_s in stages:
        counters.count(
            (recipe, stage), num_in=num_in, num_out=num_out, reasons=reasons, busy_s=busy_s
        )
    return counters


TEN = counted(
    10,
    ("one", "loader", 10, 8, ["bad_image"] * 2, 0.1),
    ("one", "cutter", 8, 12, ["no_region"], 2.4),
    ("one", "masker", 12, 12, [], 0.0),
    ("two", "loader", 10, 9, ["bad_box"], 0.1),
)


def text(shown, what=None):
    console = shown.console
    console.print(shown.now() if what is None else what)
    return console.file.getvalue()


def test_finished_and_live_shards_add_up():
    shown = progress()
    shown.done(0, TEN)
    live = counted(3, ("one", "loader", 3, 3, [], 0.0), ("one", "cutter", 3, 5, [], 0.6))
    shown.live({"1-0": live})
    assert shown.total().num_seeds == 13
    assert shown.total().stages["one", "cutter"].num_out == 17
    # The latest counts of a shard replace the ones before them.
    shown.live({"1-0": counted(5, ("one", "loader", 5, 5, [], 0.0))})
    assert shown.total().num_seeds == 15
    assert shown.total().stages["one", "cutter"].num_out == 12
    # When it is done they do not count twice, even if the status actor still has them.
    shown.done(1, TEN)
    shown.live({"1-0": live})
    assert shown.total().num_seeds == 20
    assert shown.line().startswith("20/40 seeds, 2/4 shards, 42 pairs, 8 drops, ")


def test_pairs_are_what_left_the_last_stage():
    """Of two actor groups, the second may count before the first is heard of, or not at all."""
    shown = progress()
    shown.live({"0-0": counted(0, ("one", "loader", 4, 4, [], 0.0))})
    assert ", 0 pairs," in shown.line()
    shown.live({"0-1": counted(4, ("one", "masker", 4, 3, [], 0.0)), "0-0": TEN})
    assert list(shown.total().stages) == STAGES
    assert ", 24 pairs," in shown.line()  # 3 + 12 of recipe one, 9 of recipe two


@pytest.fixture
def clock(monkeypatch):
    """The time that has passed, to be set."""
    now = {"s": 0.0}
    monkeypatch.setattr(module, "monotonic", lambda: now["s"])
    return now


def begun(seconds, **more):
    """A progress that was begun so many seconds ago."""
    shown = progress(**more)
    shown._started = -seconds
    return shown


def test_rate_and_time_to_go(clock):
    shown = begun(20)
    assert shown.line().endswith("0.0 seeds/s, ETA unknown")
    shown.done(0, TEN)
    assert shown.line().endswith("0.5 seeds/s, ETA 1:00")
    for shard in (1, 2, 3):
        shown.done(shard, TEN)
    assert shown.line().endswith("2.0 seeds/s, ETA 0:00")


def test_a_resumed_run_counts_its_own_speed(clock):
    before = counted(1000, ("one", "loader", 1000, 1000, [], 5.0))
    shown = begun(10, num_seeds=21_010, num_shards=40, before=before, shards_before=20)
    shown.done(20, TEN)
    line = shown.line()
    assert line.startswith("1,010/21,010 seeds, 21/40 shards, ")
    # 10 in 10 s; 20,000 to go.
    assert line.endswith("1.0 seeds/s, ETA 5:33:20")


def failing(errors, of, reason="model_error"):
    reasons = [reason] * errors
    return counted(of, ("one", "cutter", of, of - errors, reasons, 0.0))


@pytest.mark.parametrize("reason", ["model_error", "out_of_memory", "crashed", "timed_out"])
def test_a_stage_that_fails_too_often_stops_the_run(reason):
    shown = progress(placement=Placement(max_error_share=0.2, min_errors=3))
    with pytest.raises(ErrorShareError) as caught:
        shown.done(0, failing(3, 10, reason))
    message = str(caught.value)
    assert "stage cutter of recipe one failed on 3 of 10 records" in message
    assert "max_error_share 0.2" in message
    assert "--retry-errors" in message


def test_what_does_not_stop_a_run():
    placement = Placement(max_error_share=0.2, min_errors=3)
    for counters in (failing(2, 2), failing(3, 15), failing(9, 10, "no_region")):
        progress(placement=placement).done(0, counters)
    # Errors of an earlier attempt are no reason to stop this one.
    resumed = progress(placement=placement, before=failing(9, 10), shards_before=1)
    resumed.done(1, failing(0, 10))


def test_live_counts_stop_a_run_at_the_next_shard():
    shown = progress(placement=Placement(max_error_share=0.2, min_errors=3))
    shown.live({"0-0": failing(8, 10)})
    with pytest.raises(ErrorShareError):
        shown.done(1, counted(10))


def test_the_table_by_stage():
    shown = progress()
    shown.done(0, TEN)
    rows = [line.split() for line in text(shown).splitlines()]
    assert rows[0][:4] == ["10/40", "seeds,", "1/4", "shards,"]
    assert ["recipe", "stage", "in", "out", "dropped", "ms", "each", "busy", "reasons"] in rows
    assert ["one", "loader", "10", "8", "2", "10.0", "100%", "bad_image", "2"] in rows
    assert ["cutter", "8", "12", "1", "300.0", "100%", "no_region", "1"] in rows
    assert ["masker", "12", "12", "0", "0.0"] in rows
    assert ["two", "loader", "10", "9", "1", "10.0", "100%", "bad_box", "1"] in rows


def test_the_share_of_time_in_which_a_stage_was_busy():
    shown = progress()
    counters = counted(4, ("one", "loader", 4, 4, [], 0.5), ("one", "cutter", 4, 4, [], 1.5))
    counters.wait(6.0, ("one", "loader"))
    shown.done(0, counters)
    rows = [line.split() for line in text(shown).splitlines()]
    assert ["one", "loader", "4", "4", "0", "125.0", "25%"] in rows
    assert ["cutter", "4", "4", "0", "375.0", "25%"] in rows
    assert ["masker", "0", "0", "0", "0.0"] in rows


def paid(stage, **usage):
    counters = Counters()
    counters.count(("one", stage), num_in=1, num_out=1, reasons=[], usage=usage)
    return counters


PLANNER = {
    "requests": 1204,
    "cached": 300,
    "prompt_tokens": 2e6,
    "completion_tokens": 1e5,
    "cost_usd": 3.196,
}


def test_what_was_used_is_said():
    shown = progress()
    assert used(shown.total()) == []
    assert "USD" not in shown.line()
    shown.done(0, paid("planner", **PLANNER))
    planner = "planner: 1,204 requests, 300 cached, 2.1 M tokens, 3.20 USD"
    assert used(paid("planner", **PLANNER)) == [planner]
    assert ", 3.20 USD, " in shown.line()
    shown.live({"1-0": paid("judge", requests=7, prompt_tokens=9999, cost_usd=0.5, images=3)})
    judge = "one judge: 7 requests, 9,999 tokens, 0.50 USD, 3 images"
    assert used(shown.total()) == [f"one {planner}", judge, "together: 3.70 USD"]
    shown.done(2, paid("judge", prompt_tokens=23_456))
    assert "33.5 k tokens" in used(shown.total())[1]
    lines = [line.rstrip() for line in text(shown).splitlines()]
    assert lines[-3] == f"one {planner}"


@pytest.mark.parametrize("height", [9, 10, 11])
def test_what_was_used_fits_the_screen(height):
    shown = progress(console=screen(width=80, height=height))
    shown.done(0, paid("cutter", **PLANNER))
    lines = text(shown).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= height
    # Where there is no room for the stages, there is none for what they used.
    assert any("1,204 requests" in line for line in lines) == (height == 11)


def test_a_screen_too_low_shows_recipes():
    shown = progress(console=screen(height=9))
    shown.done(0, TEN)
    rows = [line.split() for line in text(shown).splitlines()]
    assert ["recipe", "in", "out", "dropped", "ms", "each", "busy", "reasons"] in rows
    # In: what entered the first stage; out: what left the last; the rest is summed.
    assert ["one", "10", "12", "3", "250.0", "100%", "bad_image", "2,", "no_region", "1"] in rows
    assert ["two", "10", "9", "1", "10.0", "100%", "bad_box", "1"] in rows
    assert len(rows) <= 9


@pytest.mark.parametrize("width", [72, 80, 120])
def test_no_line_is_wider_than_the_screen_and_no_number_is_cut(width):
    shown = progress(console=screen(width), num_seeds=30_000_000)
    reasons = ["no_count_word"] * 3000 + ["no_free_place"] * 2000 + ["bad_segmentation"]
    shown.done(0, counted(1_234_567, ("one", "cutter", 1_234_567, 1_229_566, reasons, 9_999.0)))
    lines = text(shown).splitlines()
    assert max(map(len, lines)) <= width
    (row,) = [line.split() for line in lines if "cutter" in line]
    assert row[:5] == ["cutter", "1,234,567", "1,229,566", "5,001", "8.1"]
    head = [line for line in lines if "recipe" in line]
    assert "reasons" in head[0]


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch, caplog):
    monkeypatch.setattr(module, "LOG_EVERY_S", 0.05)
    shown = progress()
    with caplog.at_level(logging.INFO), shown:
        shown.done(0, TEN)
        while len(caplog.records) < 4:
            time.sleep(0.01)
    logged = [record.getMessage() for record in caplog.records]
    assert all(line.startswith("10/40 seeds, 1/4 shards") for line in logged[1:])
    assert shown.console.file.getvalue() == ""


def test_on_a_terminal_the_last_table_stays_once(caplog):
    shown = progress(console=screen(terminal=True))
    handler = logging.StreamHandler(sys.stderr)
    logging.getLogger().addHandler(handler)
    try:
        with shown:
            shown.done(0, TEN)
            logging.getLogger("pipeline").warning("a word in between")
            while "10/40 seeds" not in shown.console.file.getvalue():
                time.sleep(0.01)
        assert handler.stream is sys.stderr
    finally:
        logging.getLogger().removeHandler(handler)
    written = shown.console.file.getvalue()
    # What was logged went through the display, above it, and not into the middle of it.
    assert "a word in between\n" in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", written)
    # What remains on the screen after the display was taken away.
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.rpartition("\x1b[2K")[2])
    assert last.count("10/40 seeds") == 1
    assert last.count("cutter") == 1
    assert not caplog.records or caplog.records[-1].getMessage() == "a word in between"


def test_the_stages_of_a_run_are_all_known_from_the_start(bench: Bench, monkeypatch):
    seen = []
    monkeypatch.setattr(Progress, "__enter__", lambda self: seen.append(self) or self)
    assert run(bench.request(Trouble(recipe="flip"), local=True)) == 0
    (shown,) = seen
    assert [stage for _, stage in shown.stages] == [
        "loader", "flipper", "embedder", "locality_check", "masker",
    ]  # fmt: skip
    assert list(shown.total().stages) == list(shown.stages)
