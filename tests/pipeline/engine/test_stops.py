"""What ends a run that no row is to blame for: said once, in one line, and resumable."""

from __future__ import annotations

import logging

import pytest
import ray

from pipeline.errors import RunError, UsageError
from pipeline.run import Exit, run
from tests.pipeline.harness import Bench, Trouble

ENGINES = [pytest.param("local"), pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.slow])]


@pytest.fixture
def engine(request) -> str:
    if request.param == "ray":
        request.getfixturevalue("small_ray")
    return str(request.param)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("no model", UsageError, r"^stage doomed cannot be opened: no model at .*/no-model; give "),
        (
            "no cuda",
            UsageError,
            r"^stage doomed cannot be opened: the placement asks for cuda, but",
        ),
        pytest.param(
            "dies in opening",
            RunError,
            "process died 6 times without finishing .* exit status 3",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_stage_that_cannot_be_opened_without_ray(bench, tmp_path, how, error, said):
    if how == "no cuda":
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    with pytest.raises(error, match=said) as caught:
        run(bench.request(Trouble(doomed=how, folder=str(tmp_path)), local=True))
    assert "\n" not in str(caught.value)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        (
            "dies in opening",
            RunError,
            r"an actor died 6 times while it opened its stages .loader, ",
        ),
        # Ray starts the actor again, which then fails in a way that Ray Data waits on for ever.
        ("opens once", UsageError, "^stage doomed cannot be opened: no model at .*/no-model; give"),
    ],
)
@pytest.mark.usefixtures("small_ray")
def test_a_stage_that_cannot_be_opened_on_ray(bench, tmp_path, how, error, said):
    trouble = Trouble(doomed=how, folder=str(tmp_path), max_actors=1)
    with pytest.raises(error, match=said) as caught:
        run(bench.request(trouble))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_a_service_that_is_down_stops_the_run_and_it_goes_on_later(bench, tmp_path, engine):
    trouble = Trouble(doomed="service down", folder=str(tmp_path))
    said = "^http://127.0.0.1:9/v1 gave no answer for 30 s; the same command resumes the run$"
    with pytest.raises(RunError, match=said):
        run(bench.request(trouble, local=engine == "local"))
    (tmp_path / "mended").touch()
    assert run(bench.request(trouble, local=engine == "local")) == Exit.COMPLETE
    bench.check_all_accounted_for()
    # Nobody was blamed.
    assert {row["status"] for row in bench.rows()} == {"pair"}


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_in_which_nothing_moves_ends(bench, small_ray, monkeypatch):
    """Somebody else holds the CPUs: the cluster has room enough by its own account."""
    monkeypatch.setattr("pipeline.engine.supervisor.SILENT_S", 2.0)
    holder = ray.remote(num_cpus=1.6)(Bench).remote(bench.folder)
    ray.get(holder.__ray_ready__.remote())
    try:
        trouble = Trouble(split=True, stall_limit_s=6.0, time_limit_s=5.0)
        said = r"nothing has moved for [0-9]+ s .stall_limit_s.*: no actor is up of .loader, sabot"
        with pytest.raises(RunError, match=said):
            run(bench.request(trouble))
    finally:
        ray.kill(holder)
    assert run(bench.request(Trouble(split=True))) == Exit.COMPLETE
    bench.check_all_accounted_for()


def test_what_the_local_worker_logs_goes_through_the_drivers_handlers(tmp_path, caplog, capfd):
    bench = Bench(tmp_path, num=4)
    with caplog.at_level(logging.WARNING):
        assert run(bench.request(Trouble(exits=(bench.ids[1],)), local=True)) == Exit.COMPLETE
    words = [(r.name, r.levelname, r.getMessage()) for r in caplog.records]
    assert (
        "workers.guard",
        "WARNING",
        "a process died with 2 rows in flight; they now run singly",
    ) in words
    assert any("strike 2 (its process died)" in message for *_, message in words)
    assert "strike" not in capfd.readouterr().err
