from __future__ import annotations

import logging
import signal
import threading
import time
from dataclasses import asdict
from itertools import count
from pathlib import Path

import pytest

from pipeline.errors import RunError, UsageError
from pipeline.run_folder import lease as lease_module
from pipeline.run_folder.lease import LEASE, Holder, Lease
from schemas.files import Folder


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path))


def elsewhere(run: Folder, seen: int, **other: object) -> None:
    """The file of a holder that differs from this process in `other`, its host if not said."""
    mine = asdict(Holder.this_process("other"))
    run.write_json(LEASE, {**mine, "seen": f"beat {seen}", **(other or {"host": "far"})})


def test_a_lease_is_taken_and_given_back(run):
    with Lease(run, "one"):
        assert run.read_json(LEASE)["attempt"] == "one"
        with pytest.raises(UsageError, match="another driver works here"), Lease(run, "two"):
            pass
        assert run.read_json(LEASE)["attempt"] == "one"
    assert not run.exists(LEASE)


@pytest.mark.parametrize(
    ("other", "taken"),
    [
        # Nobody answers to what looks like the number of a process here: the file alone tells.
        ({"host": "far"}, "after a wait"),
        ({"boot": "another"}, "after a wait"),
        ({"pid_namespace": "pid:[1]"}, "after a wait"),
        ({"boot": None, "pid_namespace": None}, "after a wait"),
        ({"started": "1"}, "at once"),
        ({"pid": 2**22 + 1}, "at once"),
        ({"started": None}, "at once"),
    ],
)
def test_a_silent_holder_is_taken_over(run, caplog, other, taken):
    elsewhere(run, 0, **other)
    with caplog.at_level(logging.INFO), Lease(run, "one", stale_s=0.3):
        assert run.read_json(LEASE)["attempt"] == "one"
    assert ("no heartbeat for 0.3 s; this driver takes over" in caplog.text) == (
        taken == "after a wait"
    )
    assert not run.exists(LEASE)


@pytest.mark.parametrize(
    "damaged", [b"", b'{"attempt": "ot', b"\xff\x00", b"[]", b'{"attempt": "x", "host": "far"}']
)
def test_a_damaged_lease_is_one_of_an_unknown_holder(run, caplog, damaged):
    run.write(LEASE, damaged)
    with caplog.at_level(logging.INFO), Lease(run, "one", stale_s=0.3):
        assert run.read_json(LEASE)["attempt"] == "one"
    waited, took = (record.getMessage() for record in caplog.records)
    assert waited == f"lease.json of {run.url} is damaged; waiting 0.3 s for a heartbeat"
    assert took == f"{run.url}: no heartbeat for 0.3 s; this driver takes over"


def test_a_lease_that_is_damaged_while_it_is_held_is_written_again(run, monkeypatch):
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    with Lease(run, "one"):
        run.write(LEASE, b"{")
        while Holder.of(run.read(LEASE)) is None:
            time.sleep(0.01)
    assert not run.exists(LEASE)


@pytest.mark.parametrize(
    ("before", "said"),
    [({}, "process [0-9]+ on far"), ({"pid_namespace": "pid:[1]"}, "process [0-9]+ on ")],
)
def test_a_holder_elsewhere_with_a_heartbeat_is_left_alone(run, before, said):
    elsewhere(run, 0, **before)
    stop = threading.Event()

    def beat() -> None:
        count = 0
        while not stop.wait(0.1):
            count += 1
            elsewhere(run, count, **before)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UsageError, match=said), Lease(run, "one", stale_s=5):
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
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(RunError, match="another driver took over, so this one stopped"):
            lose_it(run)
    finally:
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
