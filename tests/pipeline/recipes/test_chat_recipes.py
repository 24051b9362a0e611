"""`edit` and `synthesis` whole: scenes of known truth, planted failures, faulty endpoints."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fakes.chat_server import ChatServer, Fail, Say
from fakes.scene_runs import Trial
from pipeline.__main__ import main
from pipeline.demo.scenes import write_scenes
from pipeline.inspect.status import status
from pipeline.recipes.build import load_recipe
from schemas.records import Reason


@pytest.fixture(scope="module")
def edits(tmp_path_factory) -> Trial:
    faults = {"nothing": 0.15, "wrong": 0.15, "drifts": 0.1}
    return Trial(tmp_path_factory.mktemp("edit"), num=24, faults=faults).run()


def test_edit_lets_no_wrong_pair_through_when_nobody_lies(edits):
    assert edits.edits()["wrong"] >= 2, "failures were planted"
    assert edits.edits()["nothing"] >= 2
    assert edits.pairs
    assert all(edits.is_right(row) for row in edits.pairs)
    assert edits.judged()[True, False] == 0, "nor is a right one refuted"


def test_failed_edits_are_tried_again_and_no_others(edits):
    tried = Counter(note["index"] for note in edits.register.notes() if "fault" in note)
    right = {note["index"] for note in edits.register.notes() if note.get("right")}
    assert max(tried.values()) == 3
    assert sum(tried.values()) > edits.num
    for index, times in tried.items():
        assert times <= 3
        if times < 3:
            assert index in right, "only a good edit ends the attempts early"
    attempts = [
        {p["name"]: p["value"] for p in row["provenance"]["params"]}["attempt"]
        for row in edits.pairs
    ]
    assert {"0", "1"} <= set(attempts)


def test_rows_say_how_they_came_to_be(edits):
    row = edits.pairs[0]
    params = {p["name"]: p["value"] for p in row["provenance"]["params"]}
    assert params["hallucination"] in {"existence", "attribute", "relation"}
    assert params["check"] == "1 of 1 votes for it"
    scores = {s["name"]: s["value"] for s in row["scores"]}
    assert scores["votes_for"] == scores["votes"] == 3
    assert row["verdict"]["verifier"] == "Qwen/Qwen3-VL-8B-Instruct"
    assert row["counterfactual"] == row["rejected"], "so the script rewrites"
    assert row["chosen_spans"]
    steps = {s["stage"]: s["settings"] for s in row["provenance"]["steps"]}
    digest = load_recipe("edit").recipes[0].links[1].stage.prompt.digest
    assert digest in steps["planner"]
    assert "base_url" not in steps["planner"]


def test_drops_keep_their_reason_and_status_counts_them(edits):
    dropped = edits.reasons
    assert len(edits.pairs) + dropped.total() == edits.num
    text, complete = status(str(edits.run_dir), as_json=False)
    assert complete
    for reason, count in dropped.items():
        assert f"{count:,}  {reason}" in text


def test_lying_votes_are_outvoted_and_kept_as_evidence(tmp_path):
    trial = Trial(tmp_path, num=16, lies=0.3, overrides=("editor.check=null",)).run()
    refuted = [row for row in trial.rows if row["reason"] == Reason.REFUTED]
    assert refuted, "0.3^2 * (3 - 2 * 0.3) = 22 % of right pairs lose their vote"
    assert all('"change_made": "no"' in row["evidence"] for row in refuted)
    assert all("of 3 votes for it" in row["detail"] for row in refuted)
    assert trial.asked["You check a pair"] == 3 * trial.judged().total()


def test_synthesis_stops_images_that_do_not_contradict(tmp_path):
    trial = Trial(tmp_path, "synthesis", num=14, faults={"disobeys": 0.3}).run()
    judged = trial.judged()
    assert judged[True, True] >= 5
    assert judged[False, False] >= 1, "failures were planted"
    assert judged[False, True] == judged[True, False] == 0
    row = trial.pairs[0]
    assert row["contrast"]["kind"] == "scene"
    params = {p["name"]: p["value"] for p in row["provenance"]["params"]}
    assert params["samples"] == "16"
    assert int(params["different_answers"]) == 2


def command(recipe: str, folder: Path, url: str, *more: str) -> list[str]:
    if not (folder / "input" / "seeds.jsonl").exists():
        write_scenes(folder / "input", 4, side=96)
    stages = {"edit": "planner.chat", "synthesis": "sampler.chat"}
    return [
        "run", recipe, "--input", str(folder / "input" / "seeds.jsonl"), "--local",
        "--output", str(folder / "run"), "--set", f"{stages[recipe]}.base_url={url}",
        "--set", "embedder.appearance=color_layout", "--set", "embedder.detail=gradient_grid",
        *more,
    ]  # fmt: skip


class TestSecrets:
    def test_the_key_is_in_nothing_that_a_run_leaves_behind(self, tmp_path, monkeypatch):
        """Requests that fail in all ways, a run that ends, its logs, its report: no key."""
        secret = "sk-very-secret-0123456789"
        replies = [
            Fail(500, body=f"Bearer {secret} is tired"),
            Fail(400, body=f"wrong key {secret}"),
            Say(None, refusal="no"),
            "nonsense",
            Fail(401, body=f"Incorrect API key provided: {secret}"),
        ]
        env = {**os.environ, "SOME_KEY": secret}
        with ChatServer(replies) as server:
            done = subprocess.run(
                [sys.executable, "-m", "fakes.scene_runs", str(tmp_path), server.url, "SOME_KEY"],
                capture_output=True,
                env=env,
                check=False,
            )
        assert server.headers, done.stderr.decode()[-2000:]
        assert server.headers[0]["Authorization"] == f"Bearer {secret}"
        assert done.returncode != 0, "a refused key stops the run"
        assert b"refuses the key" in done.stderr
        assert secret.encode() not in done.stdout + done.stderr
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.name == "run.json" for path in files)
        for path in files:
            assert secret.encode() not in path.read_bytes(), path

    def test_a_key_in_the_recipe_is_refused_without_being_shown(self, tmp_path, capsys):
        for setting in (
            "planner.chat.api_key_env=sk-very-secret",
            "planner.chat.api_key=sk-very-secret",
            "planner.chat.base_url=https://me:sk-very-secret@host/v1",
        ):
            code = main(command("edit", tmp_path, "http://localhost:1/v1", "--set", setting))
            assert code == 2
            shown = capsys.readouterr()
            assert "sk-very-secret" not in shown.out + shown.err


@pytest.mark.parametrize("recipe", ["edit", "synthesis"])
def test_plan_needs_no_model_and_no_torch(recipe, tmp_path):
    write_scenes(tmp_path, 4, side=96)
    code = (
        "import sys; from pipeline.__main__ import main; "
        f"code = main(['plan', '{recipe}', '--input', '{tmp_path}/seeds.jsonl']); "
        "heavy = {'torch', 'diffusers', 'transformers', 'vllm', 'openai', 'peft'}; "
        "sys.exit(code or str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not done.stderr.strip(), done.stderr
    assert "PlannedEdit" in done.stdout or "Described" in done.stdout


def test_an_endpoint_that_is_down_stops_the_run_and_the_same_command_resumes_it(tmp_path, caplog):
    """First nobody answers; then the endpoint is there, somewhere else: no row was lost."""
    caplog.set_level(logging.ERROR)
    folder = tmp_path / "trial"
    folder.mkdir()
    trial = Trial(folder, num=6, overrides=("planner.chat.patience_s=0.3",))
    with pytest.raises(Exception, match="is down: no connection"):
        trial.run(url="http://127.0.0.1:9/v1")
    assert not list((trial.run_dir / "parts").glob("part-*")), "no row was dropped for it"
    trial.run()
    assert len(trial.pairs) >= 4
    assert not trial.reasons["request_failed"] + trial.reasons["model_error"]


def test_a_cached_rerun_asks_nobody_and_gives_the_same_rows(tmp_path):
    cache = tmp_path / "cache"
    settings = tuple(
        f"{stage}.cache={cache}" for stage in ("planner.chat", "editor.check", "chat_verifier.chat")
    )
    faults = {"nothing": 0.3}
    first = Trial(tmp_path / "a", num=6, faults=faults, overrides=settings).run()
    again = Trial(tmp_path / "b", num=6, faults=faults, overrides=settings).run()
    assert sum(first.asked.values()) > 6
    assert again.asked == {}
    assert rows(again) == rows(first)


def rows(trial: Trial) -> list[dict[str, Any]]:
    """All but where the trial's folder is, which its models have as a setting."""
    own = {"source", "provenance", "pair_id"}
    return [{k: v for k, v in row.items() if k not in own} for row in trial.rows]


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_the_rows_are_the_same(tmp_path, small_ray):
    faults = {"nothing": 0.2, "wrong": 0.2}
    plain = Trial(tmp_path / "a", num=6, faults=faults).run()
    on_ray = Trial(tmp_path / "b", num=6, faults=faults, local=False).run()
    assert rows(on_ray) == rows(plain)
