"""The URL backend against a real server with a real (tiny, random) vision-language model."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from fakes.tiny.llava import save_llava
from schemas.records import Image, Reason
from stages.backends.chat.openai import OpenAIChatSettings
from stages.base import Device
from stages.language.chat import Form, Message, Reply, Request, Sampling, Unanswered
from tests.stages.backends.chat.test_transformers import random_image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

# Without torchvision, whose decoder of images is not there beside a CPU build of torch.
COMMAND = (
    "import sys; sys.modules['torchvision'] = None; "
    "from transformers.cli.transformers import main; main()"
)
LIMIT_S = 500


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address of `transformers serve` with a tiny LLaVA, and the model's folder."""
    folder = save_llava(tmp_path_factory.mktemp("served"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_for(url.replace("/v1", "/health"), process)
        yield url, folder
    finally:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    start = monotonic()
    while True:
        assert process.poll() is None, "the server ended"
        assert monotonic() - start < LIMIT_S, "the server does not come up"
        try:
            urllib.request.urlopen(url, timeout=5).read()
        except OSError:
            sleep(0.3)
        else:
            return


class Yes(Form):
    yes: bool


def ask(answer: type, *images: Image, seed: int = 1) -> Request:
    turn = Message("user", ("Look:", *images, "What is it?"))
    return Request((turn,), answer, Sampling(temperature=1.0, top_p=0.9, max_tokens=24), seed)


@pytest.mark.slow
def test_the_path_to_a_real_server_and_back(server):
    url, folder = server
    chat = OpenAIChatSettings(
        model=str(folder), base_url=url, structured="none", concurrency=2
    ).load(Device())
    try:
        requests = [ask(str, random_image(i), random_image(i + 1), seed=i) for i in range(6)]
        results = chat.chat(requests)
        replies = [r for r in results if isinstance(r, Reply)]
        cut = [r for r in results if isinstance(r, Unanswered)]
        assert len(replies) + len(cut) == 6
        assert replies, "40 of its 261 words end a reply"
        assert all("cut off at 24" in r.why for r in cut)
        usage = chat.usage()
        assert usage["requests"] == 6
        # Two images of 16 patches each, and a word for every letter.
        assert usage["prompt_tokens"] > 6 * (32 + len("Look:What is it?"))
        (form,) = chat.chat([ask(Yes, random_image())])
        assert form.reason is Reason.BAD_REPLY, "random weights write no JSON"
    finally:
        chat.close()


@pytest.mark.slow
def test_a_model_that_the_server_does_not_have(server):
    url, folder = server
    chat = OpenAIChatSettings(model="no/such-model", base_url=url).load(Device())
    try:
        (result,) = chat.chat([ask(str, random_image())])
    finally:
        chat.close()
    assert result.reason is Reason.REQUEST_FAILED
    assert str(folder) in result.why, "the server's own words: it is pinned to another"
