"""The progress line: what it says, on a terminal and in a log."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from trainer.run.loop import StepResult
from trainer.run.progress import ProgressLine
from trainer.run.stop import StopRequest

RESULT = StepResult({"loss": 6.0, "accuracy": 2.0}, 4, 1.0, 5e-6, StopRequest.GO_ON)


def test_the_time_left_counts_this_attempts_steps_alone():
    line = ProgressLine()
    line.begin(100, 304)
    said = line.line(104, RESULT, line._begun_s + 8.0)
    assert said == "loss 1.5000, accuracy 0.50, rate 5.00e-06, 2.00 rows/s, 0:06:40 left"


def test_on_a_terminal():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with ProgressLine(console) as line:
        line.begin(0, 3)
        line.step(1, RESULT)
        line._bar.refresh()
    assert "1/3" in screen.getvalue()
    assert "loss 1.5000" in screen.getvalue()


@pytest.mark.parametrize(("step", "said"), [(1, False), (3, True)])
def test_in_a_log_the_last_step_and_one_a_minute(step, said, caplog):
    line = ProgressLine(Console(file=io.StringIO()))
    with line, caplog.at_level(logging.INFO):
        line.begin(0, 3)
        line.step(step, RESULT)
    assert (f"step {step} of 3, loss 1.5000" in caplog.text) is said
