from __future__ import annotations

import signal
import threading
import time
from itertools import count
from pathlib import Path

import pytest

from pipeline.errors import RunError, UsageError
from pipeline.run_folder import lease as lease_module
from pipeline.run_folder.lease import LEASE, Lease
from schemas.files import Folder


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path))


def elsewhere(run: Folder, seen: int) -> None:
    run.write_json(
        LEASE,
        {"attempt": "other", "host": "far", "pid": 1, "started": "1", "seen": f"beat {seen}"},
    )


def test_a_lease_is_taken_and_given_back(run):
    with Lease(run, "one"):
        assert run.read_json(LEASE)["attempt"] == "one"
        with pytest.raises(UsageError, match="another driver works here"), Lease(run, "two"):
            pass
        assert run.read_json(LEASE)["attempt"] == "one"
    assert not run.exists(LEASE)


def test_a_silent_holder_on_another_host_is_taken_over(run):
    elsewhere(run, 0)
    with Lease(run, "one", stale_s=0.5):
        assert run.read_json(LEASE)["attempt"] == "one"


def test_a_holder_on_another_host_with_a_heartbeat_is_not(run):
    elsewhere(run, 0)
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(0.1):
            count += 1
            elsewhere(run, count)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UsageError, match="process 1 on far"), Lease(run, "one", stale_s=5):
            pass
    finally:
        stop.set()
        thread.join()


def lose_it(run: Folder) -> None:
    """Another driver signs until this one is interrupted; the test's time limit ends the wait."""
    with Lease(run, "one"):
        for beat in count():
            elsewhere(run, beat)
            time.sleep(0.01)


@pytest.mark.parametrize("interrupt", [signal.default_int_handler, signal.SIG_IGN])
def test_a_driver_that_lost_its_lease_stops(run, monkeypatch, interrupt):
    """Also one that a shell without job control started in the background."""
    before = signal.signal(signal.SIGINT, interrupt)
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    with pytest.raises(RunError, match="another driver took over, so this one stopped"):
        lose_it(run)
    signal.signal(signal.SIGINT, before)
    assert run.read_json(LEASE)["attempt"] == "other"


def test_a_heartbeat_that_fails_is_tried_again(run, monkeypatch, caplog):
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    with Lease(run, "one") as lease:
        failed, renewed, renew = threading.Event(), threading.Event(), lease._write

        def no_route() -> None:
            failed.set()
            raise OSError("no route")

        monkeypatch.setattr(lease, "_write", no_route)
        assert failed.wait(60)
        monkeypatch.setattr(lease, "_write", lambda: (renew(), renewed.set()))
        assert renewed.wait(60)
        assert "the lease could not be renewed: no route" in caplog.text
        assert lease._thread is not None
        assert lease._thread.is_alive()
