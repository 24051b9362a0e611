"""The vLLM adapter, as far as it can be tested where vLLM cannot run.

Its calls go to a stand-in that records them; where vLLM's own source is at hand (installed, or
unpacked in the folder that NEARMISS_VLLM_SOURCE names), the names of all arguments are held against
its signatures.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from schemas.records import Image, Reason
from stages.backends.chat.vllm import VllmChatSettings
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import Device
from stages.language.chat import ChatModel, Form, Message, Reply, Request, Sampling, Unanswered

JPEG = Image(b"\xff\xd8\xff\xe0 an image")


class Yes(Form):
    yes: bool


def ask(text: str, answer: type = Yes, seed: int = 2**40 + 3) -> Request:
    turns = (Message("system", ("Judge.",)), Message("user", (JPEG, JPEG, text)))
    return Request(turns, answer, Sampling(0.5, 0.9, 77), seed)


@dataclass
class Calls:
    """Keyword names that the adapter used, by what it called."""

    keywords: dict[str, set[str]] = field(default_factory=dict)
    values: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    shut_down: int = 0

    def note(self, name: str, keywords: dict[str, Any]) -> None:
        self.keywords.setdefault(name, set()).update(keywords)
        self.values.append((name, keywords))


@pytest.fixture
def calls(monkeypatch) -> Calls:
    """A `vllm` that says what the user's last words are."""
    seen = Calls()

    def recorder(name):
        def make(**keywords):
            seen.note(name, keywords)
            return SimpleNamespace(**keywords)

        return make

    class LLM:
        def __init__(self, **keywords):
            seen.note("LLM", keywords)
            core = SimpleNamespace(shutdown=self._shutdown)
            self.llm_engine = SimpleNamespace(engine_core=core)

        def _shutdown(self):
            seen.shut_down += 1

        def chat(self, messages, **keywords):
            seen.note("LLM.chat", {"messages": messages, **keywords})
            assert len(keywords["sampling_params"]) == len(messages)
            return [output(conversation) for conversation in messages]

    def output(conversation):
        text = [p for p in conversation[1]["content"] if p["type"] == "text"][-1]["text"]
        finish = "length" if "long" in text else "error" if "broken" in text else "stop"
        reply = SimpleNamespace(text=text, token_ids=[1, 2, 3], finish_reason=finish)
        return SimpleNamespace(outputs=[reply], prompt_token_ids=[0] * 10)

    module, sampling = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    lora, request = ModuleType("vllm.lora"), ModuleType("vllm.lora.request")
    module.LLM, module.SamplingParams = LLM, recorder("SamplingParams")
    sampling.StructuredOutputsParams = recorder("StructuredOutputsParams")
    request.LoRARequest = recorder("LoRARequest")
    for name, part in (
        ("vllm", module),
        ("vllm.sampling_params", sampling),
        ("vllm.lora", lora),
        ("vllm.lora.request", request),
    ):
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setattr("stages.backends.weights.torch_device.place", lambda _: None)
    model = "stages.backends.chat.vllm_model"
    monkeypatch.setitem(sys.modules, model, None)  # so that it is forgotten at the end, too
    del sys.modules[model]
    return seen


@pytest.fixture
def chat(calls, tmp_path):
    adapter = tmp_path / "lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 20}')
    asked = VllmChatSettings(model=str(tmp_path), adapter=str(adapter))
    backend = pickle.loads(pickle.dumps(asked)).load(Device("cuda", "bfloat16"))
    yield backend
    backend.close()
    backend.close()
    assert calls.shut_down == 1


def test_requests_and_replies_keep_their_order(chat, calls):
    texts = ['{"yes": true}', "free words", '{"yes": false}']
    results = chat.chat([ask(texts[0]), ask(texts[1], str), ask(texts[2])])
    assert [r.value for r in results] == [Yes(yes=True), "free words", Yes(yes=False)]
    (call,) = [values for name, values in calls.values if name == "LLM.chat"]
    system, user = call["messages"][0]
    assert system == {"role": "system", "content": "Judge."}
    assert [p["type"] for p in user["content"]] == ["image_url", "image_url", "text"]
    assert user["content"][0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    held = [params.structured_outputs for params in call["sampling_params"]]
    assert held[0].json["properties"]["yes"]["type"] == "boolean"
    assert held[1] is None
    params = call["sampling_params"][0]
    assert (params.temperature, params.top_p, params.max_tokens, params.seed) == (0.5, 0.9, 77, 3)
    assert call["lora_request"].lora_path.endswith("lora")
    assert chat.usage() == {"requests": 3, "prompt_tokens": 30, "completion_tokens": 9}
    assert isinstance(chat, ChatModel)


def test_what_is_no_answer(chat):
    cut, broken, bad = chat.chat([ask("long"), ask("broken"), ask("no JSON")])
    assert cut.reason is Reason.BAD_REPLY
    assert broken == Unanswered(
        Reason.REQUEST_FAILED, "vLLM ended the reply with 'error'", "broken"
    )
    assert bad.reason is Reason.BAD_REPLY
    assert isinstance(chat.chat([ask('{"yes": true}')])[0], Reply)


def test_the_engine_is_set_up_for_the_placement(calls, chat):
    (engine,) = [values for name, values in calls.values if name == "LLM"]
    assert engine["dtype"] == "bfloat16"
    assert engine["limit_mm_per_prompt"] == {"image": 2}
    assert engine["max_lora_rank"] == 32, "the next size above 20"


def test_what_is_missing_is_named(calls, tmp_path):
    with pytest.raises(ValueError, match="device: cuda"):
        VllmChatSettings(model=str(tmp_path)).load(Device("cpu"))
    with pytest.raises(CheckpointError, match="adapter_config"):
        VllmChatSettings(model=str(tmp_path), adapter=str(tmp_path)).load(Device("cuda"))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_way_out_is_named():
    with pytest.raises(ValueError, match=r"nearmiss\[vllm\]"):
        VllmChatSettings().load(Device("cuda"))


def source() -> Path | None:
    """The folder of vLLM's source, if it is at hand."""
    named = os.environ.get("NEARMISS_VLLM_SOURCE")
    if named:
        return Path(named)
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin).parent if spec and spec.origin else None


def arguments(path: Path, owner: str, method: str) -> tuple[set[str], bool]:
    """Names of a method's arguments, and whether it takes others; of a class its fields."""
    tree = ast.parse(path.read_text("utf-8"))
    (cls,) = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == owner]
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == method:
            found = node.args
            names = {a.arg for a in (*found.posonlyargs, *found.args, *found.kwonlyargs)}
            return names, found.kwarg is not None
    fields = {n.target.id for n in cls.body if isinstance(n, ast.AnnAssign)}
    return fields, False


@pytest.mark.skipif(source() is None, reason="the source of vLLM is not at hand")
def test_our_calls_have_the_names_of_vllms_own_source(chat, calls):
    chat.chat([ask('{"yes": true}')])
    root = source()
    engine_fields, _ = arguments(root / "engine" / "arg_utils.py", "EngineArgs", "")
    places = {
        "LLM": ("entrypoints/llm.py", "LLM", "__init__"),
        "LLM.chat": ("entrypoints/llm.py", "LLM", "chat"),
        "SamplingParams": ("sampling_params.py", "SamplingParams", ""),
        "StructuredOutputsParams": ("sampling_params.py", "StructuredOutputsParams", ""),
        "LoRARequest": ("lora/request.py", "LoRARequest", ""),
    }
    assert set(calls.keywords) == set(places)
    for name, (file, owner, method) in places.items():
        known, takes_others = arguments(root / file, owner, method)
        # What LLM does not know itself it hands on to EngineArgs.
        known |= engine_fields if takes_others else set()
        assert calls.keywords[name] <= known, name
    outputs = ast.unparse(ast.parse((root / "outputs.py").read_text("utf-8")))
    for attribute in ("prompt_token_ids", "outputs", "finish_reason", "token_ids", "text"):
        assert attribute in outputs
    shutdown, _ = arguments(root / "v1/engine/core_client.py", "EngineCoreClient", "shutdown")
    assert "self" in shutdown
    assert "self.engine_core = " in (root / "v1/engine/llm_engine.py").read_text("utf-8")
