"""`doctor` and `models`, against a real HTTP server on loopback that speaks the hub's API."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fakes.chat_server import ChatServer
from pipeline.demo.scenes import write_scenes

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "dinov2"}', "model.safetensors": b"w" * 3000}
MODEL = "tiny/dinov2"


@dataclass
class Hub:
    """What the hub holds, and what it was asked for."""

    url: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Not on the test's output."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            state.asked.append(f"{self.command} {self.path}")
            name = self.path.split("?")[0]
            if "gated" in name:
                return self.say(403, b"{}", {"X-Error-Code": "GatedRepo"})
            if MODEL not in name:
                return self.say(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if "v9" in name:
                return self.say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if "/tree/" in name:
                entries = [{"type": "file", "path": n, "size": len(data), "oid": "0" * 40}
                           for n, data in FILES.items()]  # fmt: skip
                return self.say(200, json.dumps(entries).encode())
            if name.startswith("/api/"):
                siblings = [{"rfilename": n} for n in FILES]
                body = {"id": MODEL, "modelId": MODEL, "sha": COMMIT, "siblings": siblings,
                        "private": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip
                return self.say(200, json.dumps(body).encode())
            file = name.rsplit("/", 1)[1]
            etag = {"ETag": f'"{file}"', "X-Repo-Commit": COMMIT}
            return self.say(200, FILES[file], etag)

        def say(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in (headers or {}).items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    thread.join(5)


RECIPE = """
name: one
about: A recipe with one model.
stages:
  loader: {{}}
  flipper: {{}}
  embedder: {{appearance: color_layout, detail: {{name: dinov2, model: "{model}"{revision}}}}}
  locality_check: {{}}
  masker: {{}}
"""


def recipe(folder: Path, model: str = MODEL, revision: str | None = None) -> str:
    path = folder / "one.yaml"
    pin = "" if revision is None else f', revision: "{revision}"'
    path.write_text(RECIPE.format(model=model, revision=pin))
    return str(path)


def command(
    folder: Path, hub: Hub, *words: str, longest_file: int | None = None, **more: str
) -> tuple[int, str, str]:
    """A command in a process of its own: the hub's address is read when its library is.

    It can write files of `longest_file` bytes at most.
    """
    limit = longest_file or resource.RLIM_INFINITY
    environment = {
        **os.environ, "HF_HOME": str(folder / "hf"), "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", **more,
    }  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-m", "pipeline", *words], env=environment, capture_output=True, text=True,
        check=False, timeout=500,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    return result.returncode, result.stdout, result.stderr


def test_a_missing_model_is_named_pulled_and_found(tmp_path, hub):
    file = recipe(tmp_path, revision=COMMIT)
    code, out, _ = command(tmp_path, hub, "models", "list", file)
    assert code == 1
    assert out.startswith(f"MISSING  {MODEL}@{COMMIT} (one.embedder)")
    assert "models pull" in out
    code, out, err = command(tmp_path, hub, "models", "pull", file)
    assert code == 0, err
    assert "3.0 kB" in out
    asked = len(hub.asked)
    code, out, _ = command(tmp_path, hub, "models", "list", file, HF_HUB_OFFLINE="1")
    assert (code, len(hub.asked)) == (0, asked)
    assert "not pinned" not in out
    code, out, _ = command(tmp_path, hub, "doctor", file, HF_HUB_OFFLINE="1")
    assert code == 0
    assert "nothing stands in the way" in out


@pytest.mark.parametrize(
    ("model", "revision", "words"),
    [
        ("tiny/gated", None, ["is gated", "accept its terms", "HF_TOKEN"]),
        ("tiny/nobody", None, ["no such model"]),
        (MODEL, "v9", ["no such revision"]),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(tmp_path, hub, model, revision, words):
    code, out, _ = command(tmp_path, hub, "models", "pull", recipe(tmp_path, model, revision))
    assert code == 1
    (line,) = out.splitlines()
    assert line.startswith(f"MISSING  {model}")
    assert all(word in line for word in words)


def test_what_is_on_no_hub_is_said_where_to_get(tmp_path, hub):
    code, out, _ = command(tmp_path, hub, "models", "list", "removal", HF_HUB_OFFLINE="1")
    assert code == 1
    lists = [line for line in out.splitlines() if "ram_tag_list" in line]
    assert len(lists) == 2
    for line in lists:
        assert "github.com/xinyu1205/recognize-anything, folder ram/data" in line
        assert "hub id" not in line


def test_a_name_that_is_no_hub_id_is_one_line_of_the_table(tmp_path, hub):
    code, out, err = command(tmp_path, hub, "doctor", recipe(tmp_path, "my model"))
    assert (code, err) == (1, "")
    (line,) = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert "model my model" in line
    assert "nor a hub id" in line
    assert "1 of " in out


def test_a_cache_that_cannot_be_written_is_no_hub_out_of_reach(tmp_path, hub):
    file = recipe(tmp_path, revision=COMMIT)
    code, out, _ = command(tmp_path, hub, "models", "pull", file, longest_file=2000)
    assert code == 1
    assert "cannot be kept in the cache" in out
    assert "File too large" in out
    assert "not reached" not in out


def test_offline_says_so_and_an_unpinned_revision_is_pointed_out(tmp_path, hub):
    file = recipe(tmp_path)
    code, out, _ = command(tmp_path, hub, "models", "pull", file, HF_HUB_OFFLINE="1")
    assert code == 1
    assert "HF_HUB_OFFLINE is set" in out
    code, out, err = command(tmp_path, hub, "models", "pull", file)
    assert code == 0
    assert f"not pinned to a commit; to keep it: revision {COMMIT}]" in out
    assert "not pinned to a commit" in err


def test_the_doctor_finds_what_would_stop_the_run(tmp_path, hub):
    placement = tmp_path / "gpu.yaml"
    placement.write_text(
        "name: gpu\ngroups:\n  - {stages: [loader, flipper]}\n"
        "  - {stages: [embedder], device: cuda, num_gpus: 1}\n  - {stages: rest}\n"
    )
    (tmp_path / "full").write_text("a file, not a folder")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"image": "gone.jpg", "chosen": "A dog.", "id": "a"}))
    code, out, _ = command(
        tmp_path, hub, "doctor", recipe(tmp_path), "--placement", str(placement),
        "--input", str(rows), "--output", str(tmp_path / "full" / "run"),
    )  # fmt: skip
    assert code == 1
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    for what in ("model tiny/dinov2", "GPUs", "input", "output"):
        assert any(what in line for line in failed), (what, out)
    assert "gone.jpg" in out


def smi(folder: Path, *, gpus: int, megabytes: int) -> str:
    """A PATH on which the driver's own tool tells of such GPUs."""
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    program.write_text(
        "#!/bin/sh\n"
        f'case "$1" in *memory*) said={megabytes};; *) said=GPU;; esac\n'
        f"for _ in {' '.join('x' * gpus)}; do echo $said; done\n"
    )
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


REMOVAL = """
name: two
about: A recipe with two models.
stages:
  loader: {{}}
  annotated_regions: {{}}
  segmenter: {{}}
  inpainter: {{backend: {{name: lama, model: "{folder}/lama.pt"}}}}
  embedder: {{detail: {{name: dinov2, model: "{folder}/dinov2"}}}}
  locality_check: {{}}
  masker: {{}}
"""


def test_memory_is_held_against_the_groups_that_load_the_models(tmp_path, hub):
    (tmp_path / "dinov2").mkdir()
    for name, size in (("lama.pt", 30), ("dinov2/model.safetensors", 2)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * 10**9)  # takes no space
    (tmp_path / "two.yaml").write_text(REMOVAL.format(folder=tmp_path))
    front = "{stages: [loader, annotated_regions, segmenter], num_cpus: 0.1}"
    own = "{stages: [inpainter], device: cuda, num_gpus: 1, num_cpus: 0.1}"
    unused = "{stages: [planner], device: cuda, num_gpus: 1, min_actors: 9}"
    rest = "{device: cuda, num_gpus: 1, num_cpus: 0.1}"
    (tmp_path / "gpu.yaml").write_text(f"groups: [{front}, {own}, {unused}, {rest}]")
    words = ["doctor", str(tmp_path / "two.yaml"), "--placement", str(tmp_path / "gpu.yaml")]
    path = smi(tmp_path, gpus=2, megabytes=39_000)  # 40.9 GB: room for 30 GB and 1.3 times that
    code, out, err = command(tmp_path, hub, *words, PATH=path)
    assert code == 0, out + err
    assert re.findall(r"(GPU memory of group \d) +([0-9.]+ GB) of weights", out) == [
        ("GPU memory of group 1", "30.0 GB"),
        ("GPU memory of group 2", "2.0 GB"),
    ]
    code, out, _ = command(tmp_path, hub, *words, PATH=smi(tmp_path, gpus=1, megabytes=36_000))
    assert code == 1
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert ["at least 0.3 CPUs, 2 GPUs" in failed[0], "group 1" in failed[1]] == [True, True]
    assert len(failed) == 2


def test_packages_of_a_groups_own_are_not_looked_for_here(tmp_path, hub):
    (tmp_path / "own.yaml").write_text(
        "groups:\n  - {stages: [loader, tagger]}\n"
        "  - {stages: [detector], pip: [groundingdino-py==0.4.0]}\n  - {}\n"
    )
    words = ["doctor", "removal", "--set", "detector.backend=groundingdino_py"]
    code, out, _ = command(tmp_path, hub, *words, HF_HUB_OFFLINE="1")
    assert any(
        line.startswith("FAIL") and "package groundingdino-py" in line for line in out.splitlines()
    )
    words += ["--placement", str(tmp_path / "own.yaml")]
    code, out, _ = command(tmp_path, hub, *words, HF_HUB_OFFLINE="1")
    assert code == 1  # for its models
    (line,) = [line for line in out.splitlines() if "package groundingdino-py" in line]
    assert line.startswith("?")
    assert "groundingdino-py==0.4.0 for removal.detector" in line
    assert "package torch" in out


def test_a_placement_for_another_recipe_fails(tmp_path, hub):
    (tmp_path / "own.yaml").write_text(
        "groups:\n  - {stages: [loader], device: cuda, num_gpus: 1}\n"
    )
    code, out, _ = command(
        tmp_path, hub, "doctor", "crop", "--placement", str(tmp_path / "own.yaml")
    )
    assert code == 1
    assert "no group runs stage cropper" in out
    assert "GPU" not in out


def test_keys_are_looked_for_and_never_shown(tmp_path, hub):
    write_scenes(tmp_path / "input", 2, side=96)
    rows = str(tmp_path / "input" / "seeds.jsonl")
    secret = "sk-very-secret-words"
    with ChatServer(lambda _: "x") as server:
        words = ["doctor", "mvc", "--input", rows, "--set", "embedder.appearance=color_layout",
                 "--set", "embedder.detail=gradient_grid"]  # fmt: skip
        for stage in ("questioner", "rewriter", "chat_verifier"):
            words += ["--set", f"{stage}.chat.base_url={server.url}"]
            words += ["--set", f"{stage}.chat.api_key_env=MY_KEY"]
        code, out, err = command(tmp_path, hub, *words)
        assert code == 1
        assert "variable MY_KEY" in out
        code, out, err = command(tmp_path, hub, *words, MY_KEY=secret)
        assert code == 0, out
        assert out.count("variable MY_KEY") == 1
        assert secret not in out + err
        server.models_status = 401
        code, out, _ = command(tmp_path, hub, *words, MY_KEY=secret)
        assert code == 1
        assert "the key is refused" in out
    code, out, _ = command(tmp_path, hub, *words, MY_KEY=secret)
    assert code == 1
    assert "no answer" in out
