"""The URL backend against a real server on loopback that misbehaves as scripted."""

from __future__ import annotations

import io
import json
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import PIL.Image
import pytest
from pydantic import Field

from fakes.chat_server import ChatServer, Cut, Fail, Garbage, Say, Slow, images, user_text
from fakes.opened import opened
from pipeline.errors import UsageError
from pipeline.recipes.build import load_recipe
from schemas.files import Folder
from schemas.records import Image, Reason
from stages.backends.chat.cache import CompletionCache
from stages.backends.chat.openai import OpenAIChatSettings
from stages.backends.chat.openai_model import OpenAIChatModel
from stages.backends.chat.retry_after import retry_after_s
from stages.base import Device, ServiceDown
from stages.language.chat import Form, Message, Reply, Request, Sampling, Unanswered
from stages.language.sampler import Sampler
from tests.pipeline import fake_runs


class Grade(Form):
    reason: str
    score: int = Field(ge=0, le=10)
    kind: Literal["good", "bad"]


GOOD = {"reason": "fine", "score": 7, "kind": "good"}


def png(color: int = 0) -> Image:
    sink = io.BytesIO()
    PIL.Image.new("RGB", (8, 6), (color, 0, 0)).save(sink, "PNG")
    return Image(sink.getvalue())


def ask(text: str = "hello", answer: type[Any] = Grade, seed: int = 1, **sampling: Any) -> Request:
    system, user = Message("system", ("Grade it.",)), Message("user", (png(), text))
    return Request((system, user), answer, Sampling(**sampling), seed)


@contextmanager
def talking(server: ChatServer, **settings: Any) -> Iterator[OpenAIChatModel]:
    settings = {"patience_s": 5.0, "timeout_s": 5.0, **settings}
    asked = OpenAIChatSettings(base_url=server.url, **settings)
    chat = pickle.loads(pickle.dumps(asked)).load(Device())  # as it travels to an actor
    try:
        yield chat
    finally:
        chat.close()
        chat.close()


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch):
    monkeypatch.setattr("stages.backends.chat.openai_model.FIRST_PAUSE_S", 0.01)


def test_what_is_sent_and_what_comes_back():
    with ChatServer([GOOD]) as server, talking(server, model="m") as chat:
        (reply,) = chat.chat([ask(seed=2**62 + 5, temperature=0.5)])
    assert reply == Reply(Grade(**GOOD), json.dumps(GOOD))
    (payload,) = server.payloads
    assert payload["model"] == "m"
    assert payload["messages"][0] == {"role": "system", "content": "Grade it."}
    assert images(payload) == [png().bytes]
    assert user_text(payload) == "hello"
    assert payload["temperature"] == 0.5
    assert payload["seed"] == 5, "31 bits, for endpoints that read no more"
    schema = payload["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["required"] == ["reason", "score", "kind"]
    assert schema["schema"]["additionalProperties"] is False


def test_free_text_is_asked_for_without_a_schema():
    with ChatServer(["  A red ball. \n"]) as server, talking(server) as chat:
        (reply,) = chat.chat([ask(answer=str)])
    assert reply.value == "A red ball."
    assert "response_format" not in server.payloads[0]


def test_without_schemas_at_the_endpoint_words_ask_for_the_form():
    with ChatServer([f"Sure!\n```json\n{json.dumps(GOOD)}\n```"]) as server:
        with talking(server, structured="none") as chat:
            (reply,) = chat.chat([ask()])
        with talking(server, structured="json_object") as chat:
            chat.chat([ask()])
    assert reply.value == Grade(**GOOD)
    assert "response_format" not in server.payloads[0]
    assert '"score"' in server.payloads[0]["messages"][0]["content"]
    assert server.payloads[1]["response_format"] == {"type": "json_object"}


def test_results_keep_the_order_of_requests_and_requests_overlap():
    def script(payload):
        return Slow(0.05 if "0" in user_text(payload) else 0.0, user_text(payload))

    requests = [ask(f"t{i}", str) for i in range(30)]
    with ChatServer(script) as server, talking(server, concurrency=8) as chat:
        replies = chat.chat(requests)
    assert [r.value for r in replies] == [f"t{i}" for i in range(30)]
    assert 2 <= server.most_in_flight <= 8


def test_equal_requests_of_a_batch_are_asked_once():
    with ChatServer([GOOD]) as server, talking(server) as chat:
        replies = chat.chat([ask(), ask(), ask(seed=2)])
    assert len(replies) == 3
    assert len(server.payloads) == 2


def test_samples_are_asked_one_by_one_where_the_endpoint_takes_no_seed(tmp_path: Path):
    """Nothing in their bodies tells them apart; the endpoint draws each anew."""
    said = iter(range(100))
    settings = {"send_seed": False, "cache": str(tmp_path)}
    with ChatServer(lambda _: f"answer {next(said)}") as server:
        for _ in range(2):  # the second time from the cache
            with talking(server, **settings) as chat:
                sampler = opened(
                    Sampler(chat.settings, samples=6, sampling=Sampling(temperature=1.0))
                )
                ((sampled,),) = sampler.process([fake_runs.seed("s")])
            assert sorted(a.text for a in sampled.answers) == [f"answer {i}" for i in range(6)]
            assert {a.times for a in sampled.answers} == {1}
            assert len(server.payloads) == 6
    assert all("seed" not in payload for payload in server.payloads)


@pytest.mark.parametrize(
    "fault",
    [Fail(429), Fail(500), Fail(503), Cut(), Garbage("<html>busy</html>"), Say(None)],
    ids=lambda f: repr(f)[:20],
)
def test_what_passes_is_tried_again(fault):
    bad = Garbage('{"choices": []}', "application/json") if fault == Say(None) else fault
    with ChatServer([bad, bad, GOOD]) as server, talking(server) as chat:
        (reply,) = chat.chat([ask()])
        assert chat.usage()["requests"] == 3
    assert reply.value == Grade(**GOOD)


def test_a_slow_request_is_given_up_and_tried_again():
    late = Slow(30, GOOD | {"reason": "late"})
    with ChatServer([late, GOOD]) as server, talking(server, timeout_s=1) as chat:
        (reply,) = chat.chat([ask()])
    assert reply.value == Grade(**GOOD)


def test_retry_after_is_honoured():
    with ChatServer([Fail(429, {"Retry-After": "1"}), GOOD]) as server, talking(server) as chat:
        before = monotonic()
        chat.chat([ask()])
    assert monotonic() - before >= 1


def test_retry_after_in_all_its_forms():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28 < retry_after_s({"retry-after": soon}) <= 30
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    assert retry_after_s({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after_s({"retry-after": "Fri, 01 Jan 1999 00:00:00 GMT"}) == 0
    then = datetime.now(UTC) + timedelta(seconds=30)
    for form in ("%a %b %e %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S -0000"):
        assert 28 < retry_after_s({"retry-after": then.strftime(form)}) <= 30
    assert retry_after_s({"retry-after": "Sun Nov  6 08:49:37 1994"}) == 0
    assert retry_after_s({"retry-after": "soon"}) is None
    assert retry_after_s({}) is None


def test_a_reply_that_does_not_fit_is_shown_its_error_once():
    with ChatServer([{**GOOD, "score": 11}, GOOD]) as server, talking(server) as chat:
        (reply,) = chat.chat([ask()])
    assert reply.value == Grade(**GOOD)
    first, second = server.payloads
    assert second["messages"][:2] == first["messages"]
    assert json.loads(second["messages"][2]["content"])["score"] == 11
    assert "score: Input should be less than or equal to 10" in second["messages"][3]["content"]


@pytest.mark.parametrize("bad", ["no idea", '{"score": 3}', "[1, 2]", ""])
def test_a_second_bad_reply_is_a_drop_with_both_as_evidence(bad):
    with ChatServer([bad, "still " + bad]) as server, talking(server) as chat:
        (result,) = chat.chat([ask()])
    assert isinstance(result, Unanswered)
    assert result.reason is Reason.BAD_REPLY
    assert result.raw == f"{bad}\n{('still ' + bad).strip()}"
    assert len(server.payloads) == 2, "one repair, never a loop"


DEEP = 100_000
"""Brackets, more than a parser goes down."""


@pytest.mark.parametrize(
    "bad",
    [
        "[" * DEEP,
        '{"reason": ' + "[" * DEEP,
        '{"a": ' * 3000,
        '{"reason": ' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=["list", "in an object", "objects", "deep but whole"],
)
def test_a_reply_nested_beyond_measure_is_a_bad_reply(bad):
    with ChatServer([bad, GOOD]) as server, talking(server) as chat:
        (reply,) = chat.chat([ask()])
    assert reply.value == Grade(**GOOD)


def test_a_refusal_and_a_cut_off_reply_are_not_repaired():
    refusals = [
        (Say(None, refusal="I cannot help"), "I cannot help"),
        (Say("As a", finish="content_filter"), "As a"),
        (Say("", finish="content_filter"), ""),
    ]
    for refusal, evidence in refusals:
        with ChatServer([refusal]) as server, talking(server) as chat:
            (result,) = chat.chat([ask()])
        assert result.reason is Reason.MODEL_REFUSED
        assert result.raw == evidence
        assert len(server.payloads) == 1
    assert chat.settings.api_key_env is None
    with ChatServer([Say('{"reason": "wel', finish="length")]) as server, talking(server) as chat:
        (result,) = chat.chat([ask(max_tokens=9)])
    assert result == Unanswered(
        Reason.BAD_REPLY, "the reply was cut off at 9 tokens", '{"reason": "wel'
    )


def test_half_a_surrogate_pair_does_not_get_through():
    half = Say('{"reason": "\\ud83d", "score": 1, "kind": "bad"}')
    with ChatServer([half]) as server, talking(server) as chat:
        (reply,) = chat.chat([ask()])
    assert reply.value.reason == "?"


def test_a_request_the_endpoint_will_not_take_is_that_rows_trouble():
    def script(payload):
        return Fail(400, body="context too long") if "long" in user_text(payload) else GOOD

    with ChatServer(script) as server, talking(server) as chat:
        bad, good = chat.chat([ask("long"), ask("short")])
    assert bad.reason is Reason.REQUEST_FAILED
    assert "HTTP 400" in bad.why
    assert "context too long" in bad.why
    assert good.value == Grade(**GOOD)
    assert len(server.payloads) == 2, "a 400 is not tried again"


def test_a_row_that_always_fails_while_others_pass_is_that_rows_trouble():
    def script(payload):
        return Fail(500) if "poison" in user_text(payload) else GOOD

    with ChatServer(script) as server, talking(server, patience_s=0.5) as chat:
        bad, good = chat.chat([ask("poison"), ask("fine")])
        assert isinstance(good, Reply)
        assert bad.reason is Reason.REQUEST_FAILED
        # Alone in its batch, too: the endpoint lists its models, so it is not down.
        (bad,) = chat.chat([ask("poison", seed=9)])
        assert bad.reason is Reason.REQUEST_FAILED
        server.models_status = 500
        (bad,) = chat.chat([ask("poison", seed=11)])
        assert bad.reason is Reason.REQUEST_FAILED
        server.health_status = 502
        with pytest.raises(ServiceDown, match="HTTP 500"):
            chat.chat([ask("poison", seed=10)])


def test_an_endpoint_that_is_down_stops_the_run_after_its_time():
    with ChatServer([GOOD]) as server:
        url = server.url
    chat = OpenAIChatSettings(base_url=url, patience_s=0.5).load(Device())
    before = monotonic()
    with pytest.raises(ServiceDown, match="is down: no connection"):
        chat.chat([ask(str(i)) for i in range(5)])
    assert monotonic() - before > 0.2
    chat.close()


@pytest.mark.parametrize("slow", ["waves", "repair", "cache"])
def test_a_micro_batch_has_one_limit_with_its_waves_and_repairs(slow, tmp_path, monkeypatch):
    """The watchdog of a worker measures the whole call, and blames a row."""
    # Without the limit of the whole call, no request breaks its own.
    seconds = {"waves": 0.25, "repair": 0.7, "cache": 0}[slow]
    if slow == "cache":
        monkeypatch.setattr(CompletionCache, "get", lambda *_: time.sleep(3))
    settings = {"timeout_s": 0.8, "patience_s": 0.0, "call_limit_s": 1.0, "concurrency": 2}
    cache = str(tmp_path) if slow == "cache" else None
    reply = "no JSON" if slow == "repair" else GOOD
    with ChatServer([Slow(seconds, reply)]) as server:
        with talking(server, **settings, cache=cache) as chat:
            before = monotonic()
            with pytest.raises(ServiceDown, match=r"left \d+ of \d+ requests unanswered"):
                chat.chat([ask(str(i)) for i in range(2 if slow == "repair" else 20)])
            assert monotonic() - before > 0.9
        with talking(server, timeout_s=5, patience_s=5, call_limit_s=10) as chat:
            assert len(chat.chat([ask("again")])) == 1


def test_limits_that_contradict_each_other():
    with pytest.raises(ValueError, match="together more than call_limit_s 100"):
        OpenAIChatSettings(base_url="http://h/v1", timeout_s=60, patience_s=50, call_limit_s=100)


def test_overload_without_end_is_nobodys_row():
    busy = Fail(429, {"Retry-After": "60"})
    with (
        ChatServer([busy]) as server,
        talking(server, patience_s=1.0) as chat,
        pytest.raises(ServiceDown, match="HTTP 429"),
    ):
        chat.chat([ask()])


def test_an_endpoint_that_comes_back_is_waited_for():
    with ChatServer([GOOD]) as server:
        port = server.port
    chat = OpenAIChatSettings(base_url=f"http://127.0.0.1:{port}/v1", patience_s=20).load(Device())
    late = ChatServer([GOOD], port=port)
    timer = threading.Timer(0.7, late.__enter__)
    timer.start()
    try:
        (reply,) = chat.chat([ask()])
    finally:
        timer.join()
        late.__exit__()
        chat.close()
    assert reply.value == Grade(**GOOD)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_an_unknown_model_stops_the_run_at_once(status, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "sk-very-secret")
    with (
        ChatServer([Fail(status, body="no: sk-very-secret")]) as server,
        talking(server, api_key_env="OUR_KEY") as chat,
        pytest.raises(ServiceDown) as error,
    ):
        chat.chat([ask()])
    assert len(server.payloads) == 1
    assert "sk-very-secret" not in str(error.value)
    assert "OUR_KEY" in str(error.value)


class TestCache:
    def test_a_rerun_makes_no_request_and_gives_the_same(self, tmp_path: Path):
        requests = [ask(), ask(seed=2), ask("bad")]

        def script(payload):
            return "nonsense" if "bad" in user_text(payload) else GOOD

        with ChatServer(script) as server:
            with talking(server, cache=str(tmp_path)) as chat:
                first = chat.chat(requests)
            asked = len(server.payloads)
            with talking(server, cache=str(tmp_path), concurrency=2) as chat:
                assert chat.chat(requests) == first
                assert chat.usage() == {"cached": 4}
            assert asked == len(server.payloads) == 4, "two good, one bad and its repair"

    def test_all_that_decides_a_reply_is_in_the_key(self, tmp_path: Path):
        variants = [
            ask(),
            ask("other"),
            ask(seed=2),
            ask(temperature=0.1),
            ask(top_p=0.5),
            ask(max_tokens=7),
            ask(answer=str),
        ]
        other = Message("user", (png(9), "hello"))
        variants.append(Request((ask().messages[0], other), Grade, Sampling(), 1))
        with ChatServer([GOOD]) as server:
            with talking(server, cache=str(tmp_path)) as chat:
                for request in variants:
                    chat.chat([request])
            for settings in ({"model": "n"}, {"structured": "none"}, {"extra_body": {"top_k": 2}}):
                with talking(server, cache=str(tmp_path), **settings) as chat:
                    chat.chat([ask()])
        assert len(server.payloads) == len(variants) + 3

    def test_the_address_is_not_in_the_key(self, tmp_path: Path):
        with ChatServer([GOOD]) as one, talking(one, cache=str(tmp_path)) as chat:
            chat.chat([ask()])
        with ChatServer([GOOD]) as two, talking(two, cache=str(tmp_path)) as chat:
            chat.chat([ask()])
        assert not two.payloads

    def test_a_damaged_file_is_replaced(self, tmp_path: Path):
        with ChatServer([GOOD]) as server, talking(server, cache=str(tmp_path)) as chat:
            chat.chat([ask()])
            (file,) = tmp_path.glob("??/*.json")
            whole = file.read_bytes()
            for damage in (whole[:20], b"", b"[]", b'{"x": 1}'):
                file.write_bytes(damage)
                assert isinstance(chat.chat([ask()])[0], Reply)
                assert file.read_bytes() == whole
        assert len(server.payloads) == 5

    def test_failures_of_the_endpoint_are_not_kept(self, tmp_path: Path):
        with ChatServer([Fail(400), GOOD]) as server, talking(server, cache=str(tmp_path)) as chat:
            assert isinstance(chat.chat([ask()])[0], Unanswered)
            assert isinstance(chat.chat([ask()])[0], Reply)

    def test_a_store_that_fails_stops_the_run(self, tmp_path: Path, monkeypatch):
        monkeypatch.setattr("stages.backends.chat.cache.FIRST_PAUSE_S", 0.01)

        def broken(*_, **__):
            raise OSError("quota")

        monkeypatch.setattr(Folder, "write", broken)
        with (
            ChatServer([GOOD]) as server,
            talking(server, cache=str(tmp_path)) as chat,
            pytest.raises(ServiceDown, match="failed 4 times: quota"),
        ):
            chat.chat([ask()])


def test_tokens_are_counted_and_priced():
    prices = {"prompt_price": 1.0, "completion_price": 10.0}
    with ChatServer([GOOD]) as server, talking(server, **prices) as chat:
        chat.chat([ask("x" * 400), ask("y" * 400)])
        usage = chat.usage()
    written = 2 * (len(json.dumps(GOOD)) // 4)
    assert usage["prompt_tokens"] == 200
    assert usage["completion_tokens"] == written
    assert usage["cost_usd"] == pytest.approx((200 + 10 * written) / 1e6)


class TestSecrets:
    def test_the_key_is_sent_and_stays_nowhere_else(self, monkeypatch, caplog, tmp_path: Path):
        monkeypatch.setenv("OUR_KEY", "sk-very-secret")
        caplog.set_level(logging.DEBUG)
        script = [
            Fail(500, body="bad key sk-very-secret"),
            Garbage("sk-very-secret"),
            Fail(400, body="Bearer sk-very-secret"),
        ]
        settings = {"api_key_env": "OUR_KEY", "cache": str(tmp_path)}
        with ChatServer([*script, GOOD]) as server, talking(server, **settings) as chat:
            results = chat.chat([ask()]) + chat.chat([ask()])
            shown = (
                repr(chat) + repr(results) + str(vars(OpenAIChatSettings(api_key_env="OUR_KEY")))
            )
        assert server.headers[0]["Authorization"] == "Bearer sk-very-secret"
        assert "[key]" in results[0].why
        assert "sk-very-secret" not in shown + caplog.text
        for file in tmp_path.rglob("*.json"):
            assert b"sk-very-secret" not in file.read_bytes()

    def test_a_key_in_the_recipe_is_refused_and_not_shown(self):
        with pytest.raises(ValueError, match="NAME of an environment variable") as error:
            OpenAIChatSettings(api_key_env="sk-very-secret")
        assert "sk-very-secret" not in str(error.value)

    @pytest.mark.parametrize(
        "url", ["http://me:sk-secret@host/v1", "https://host/v1?key=sk-secret"]
    )
    def test_a_secret_in_the_address_is_refused_and_not_shown(self, url):
        with pytest.raises(ValueError, match="a query") as error:
            OpenAIChatSettings(base_url=url)
        assert "sk-secret" not in str(error.value)

    @pytest.mark.parametrize(
        "url",
        ["me:sk-secret@host:8000/v1", "sk-secret", "ftp://sk-secret/v1", "http://h:sk-secret/v1",
         "http://[sk-secret", "http:///sk-secret"],
    )  # fmt: skip
    def test_what_is_no_address_is_refused_and_not_shown(self, url, monkeypatch):
        with pytest.raises(ValueError, match="no address") as error:
            OpenAIChatSettings(base_url=url)
        assert "sk-secret" not in str(error.value)
        assert "sk-secret" not in repr(error.value.__context__)
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(ValueError, match="no address") as error:
            OpenAIChatSettings().load(Device())
        assert "sk-secret" not in str(error.value)

    def test_a_recipe_does_not_show_it_either(self):
        setting = "questioner.chat.base_url=me:sk-secret@host:8000/v1"
        with pytest.raises(UsageError, match="no address") as error:
            load_recipe("mvc", [setting])
        assert "sk-secret" not in str(error.value)

    def test_a_missing_key_is_named(self, monkeypatch):
        monkeypatch.delenv("OUR_KEY", raising=False)
        with pytest.raises(ValueError, match="OUR_KEY is not set"):
            OpenAIChatSettings(base_url="http://h/v1", api_key_env="OUR_KEY").load(Device())


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="no address"):
        OpenAIChatSettings(base_url="localhost:8000")


@pytest.mark.parametrize("structured", ["json_schema", "json_object"])
@pytest.mark.parametrize("tokens", ["max_tokens", "max_completion_tokens"])
def test_further_keys_do_not_override_the_recipe(structured, tokens):
    with ChatServer([GOOD]) as server:
        settings = {"structured": structured, "max_tokens_key": tokens}
        with talking(server, **settings, extra_body={"top_k": 5}) as chat:
            chat.chat([ask()])
    (payload,) = server.payloads
    assert payload.pop("top_k") == 5
    for key in (*payload, "stream", "n"):
        with pytest.raises(ValueError, match=f"extra_body sets {key}, which"):
            OpenAIChatSettings(extra_body={key: 1})


def test_no_address_at_all(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ValueError, match="set base_url"):
        OpenAIChatSettings().load(Device())


def test_a_image_of_an_unknown_format_is_named():
    request = Request((Message("user", (Image(b"II*\0tiff"),)),), str, Sampling(), 0)
    with (
        ChatServer([GOOD]) as server,
        talking(server) as chat,
        pytest.raises(ValueError, match="JPEG, PNG"),
    ):
        chat.chat([request])
