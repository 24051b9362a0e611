"""A run's folder: the same run or none, one process at a time."""

from __future__ import annotations

import pytest

from trainer.errors import UsageError
from trainer.run.run_folder import RunFolder, versions
from trainer.settings import Source, load_settings


def card(*overrides, preset="dpo", **more):
    settings = load_settings(Source(preset, overrides=overrides)).model_dump(mode="json")
    return {"settings": settings, "model": "m", "revision": None, "rows": "r", **more}


def test_the_same_run_may_go_on_with_another_machine(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(card())
    folder.claim(card("machine.micro_batch=3", "keep.checkpoints=1", "about=x"))
    assert folder.settings().machine.micro_batch == 3


def test_another_run_is_refused_by_what_differs(tmp_path):
    folder = RunFolder(tmp_path)
    folder.claim(card())
    with pytest.raises(UsageError) as caught:
        folder.claim(card("optimizer.learning_rate=1e-6", "machine.device=cpu", model="n"))
    assert "model was 'm', is 'n'" in str(caught.value)
    assert "optimizer.learning_rate was 5e-06, is 1e-06" in str(caught.value)
    assert "device" not in str(caught.value)
    with pytest.raises(UsageError, match="rows was 'r', is 's'"):
        folder.claim(card(rows="s"))


@pytest.mark.parametrize("preset", ["icvco", "sft-icvco"])
def test_another_micro_batch_is_another_run_where_it_decides(tmp_path, preset):
    folder = RunFolder(tmp_path)
    folder.claim(card(preset=preset))
    with pytest.raises(UsageError, match=r"machine\.micro_batch was 1, is 8; choose another"):
        folder.claim(card("machine.micro_batch=8", preset=preset))
    folder.claim(card("machine.loader_workers=8", preset=preset))


def test_two_at_a_time_are_refused(tmp_path):
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(UsageError, match="another process"),
        RunFolder(tmp_path).locked(),
    ):
        pass
    with RunFolder(tmp_path).locked():
        pass


def test_settings_of_no_run(tmp_path):
    with pytest.raises(UsageError, match=r"no run\.json"):
        RunFolder(tmp_path).settings()


def test_versions_are_known():
    assert "unknown" not in (versions()["torch"], versions()["peft"])
