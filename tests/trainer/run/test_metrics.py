"""The metrics file: windows, and that a resumed run takes back what it will do again."""

from __future__ import annotations

import json
from types import SimpleNamespace

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from trainer.run.metrics import MetricsFile, Window, read_metrics


def test_a_window_is_the_mean_over_rows_not_over_steps():
    window = Window()
    window.add({"loss": 6.0}, 3)
    window.add({"loss": 4.0}, 1)
    assert window.close() == {"loss": 2.5}
    assert window.sums == {}


def test_a_window_goes_on_after_a_checkpoint_exactly():
    through, before = Window(), Window()
    for window in (through, before):
        window.add({"loss": 0.1}, 3)
        window.add({"loss": 0.2}, 3)
    after = Window(json.loads(json.dumps(before.sums)))
    for window in (through, after):
        window.add({"loss": 0.3}, 2)
    assert through.close() == after.close()


def test_lines_after_the_checkpoint_are_taken_back(tmp_path, monkeypatch):
    # TensorBoard counts its files of one second and process, and reads them in the order of their
    # names, in which the tenth comes before the ninth.
    counted = SimpleNamespace(get=iter((9, 10)).__next__)
    monkeypatch.setattr(event_file_writer, "_global_uid", counted)
    file = MetricsFile(tmp_path, 0)
    for step in (1, 2, 3):
        file.write(step, {"loss": step / 10, "margin": float("inf")})
    file.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 4, "lo')
    again = MetricsFile(tmp_path, 2)
    again.write(3, {"loss": 7.0})
    again.close()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[1] == {"step": 2, "loss": 0.2, "margin": None}
    assert lines[2]["loss"] == 7.0
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(e.step, round(e.value, 3)) for e in board.Scalars("loss")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 7.0),
    ]
