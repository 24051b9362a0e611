"""A real HTTP server that speaks OpenAI's chat API on loopback and does as a script says.

with ChatServer(lambda payload: Say("hello")) as server:
    OpenAIChatSettings(base_url=server.url, ...)
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

from stages.backends.chat.openai import OpenAIChatSettings


@dataclass(frozen=True)
class Say:
    """A reply; an object is said as JSON."""

    content: Any
    finish: str = "stop"
    refusal: str | None = None


@dataclass(frozen=True)
class Fail:
    """An HTTP error."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = "the script says so"


@dataclass(frozen=True)
class Cut:
    """The connection ends in the middle of the reply."""


@dataclass(frozen=True)
class Slow:
    """A reply after a while."""

    seconds: float
    then: Any


@dataclass(frozen=True)
class Garbage:
    """Status 200 with a body that is no completion."""

    body: str
    content_type: str = "text/html"


log = logging.getLogger(__name__)

Script = Callable[[dict[str, Any]], Any]


class ChatServer:
    """The server, in a thread of its own, on a free port. Keeps what it was asked."""

    def __init__(
        self, script: Script | Iterable[Any], *, delay_s: float = 0.0, port: int = 0
    ) -> None:
        """`script` gives the response to each payload; or responses in order, the last for ever."""
        self.payloads: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.models_status = self.health_status = 200
        self._script = script if callable(script) else _in_order(script)
        self._delay_s = delay_s
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": []}, status=self.models_status)

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "?"}, status=self.health_status)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        payload = json.loads(await request.read())
        self.payloads.append(payload)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            return await self._respond(self._said(payload), request, payload)
        finally:
            self.in_flight -= 1

    def _said(self, payload: dict[str, Any]) -> Any:
        """What the script says; a script that fails is not asked again and again."""
        try:
            return self._script(payload)
        except Exception as error:
            log.exception("the script failed")
            return Fail(400, body=f"the script failed: {error!r}")

    async def _respond(
        self, response: Any, request: web.Request, payload: dict[str, Any]
    ) -> web.StreamResponse:
        match response:
            case Slow():
                await asyncio.sleep(response.seconds)
                return await self._respond(response.then, request, payload)
            case Fail():
                body = {"error": {"message": str(response.body)}}
                return web.json_response(body, status=response.status, headers=response.headers)
            case Cut():
                stream = web.StreamResponse(headers={"Content-Length": "1000"})
                await stream.prepare(request)
                await stream.write(b'{"choices": [')
                assert request.transport is not None
                request.transport.close()
                return stream
            case Garbage():
                return web.Response(text=response.body, content_type=response.content_type)
            case Say():
                return web.json_response(completion(response, payload))
            case _:
                return web.json_response(completion(Say(response), payload))


@contextmanager
def chatting(script: Script | Iterable[Any], **settings: Any) -> Iterator[tuple[Any, ChatServer]]:
    """A backend that talks to a server with this script, and the server."""
    with ChatServer(script) as server:
        own = {"model": "scripted", "patience_s": 2, **settings}
        yield OpenAIChatSettings(base_url=server.url, **own), server


def completion(say: Say, payload: dict[str, Any]) -> dict[str, Any]:
    """The body of a reply; a token is four characters."""
    text = say.content if isinstance(say.content, str | None) else json.dumps(say.content)
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": payload["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": say.finish,
                "message": {"role": "assistant", "content": text, "refusal": say.refusal},
            }
        ],
        "usage": {
            "prompt_tokens": len(user_text(payload)) // 4,
            "completion_tokens": len(text or "") // 4,
            "total_tokens": 0,
        },
    }


def texts(payload: dict[str, Any], role: str) -> list[str]:
    """The texts of all messages of a role, in order."""
    found: list[str] = []
    for message in payload["messages"]:
        if message["role"] != role:
            continue
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        found += [part["text"] for part in parts if part["type"] == "text"]
    return found


def user_text(payload: dict[str, Any]) -> str:
    return "\n".join(texts(payload, "user"))


def system_text(payload: dict[str, Any]) -> str:
    return "\n".join(texts(payload, "system"))


def images(payload: dict[str, Any]) -> list[bytes]:
    """The images of all messages, in order."""
    found = []
    for message in payload["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                head, data = part["image_url"]["url"].split(",", 1)
                assert head.startswith("data:image/")
                assert head.endswith(";base64")
                found.append(base64.b64decode(data))
    return found


def said(payload: dict[str, Any], name: str) -> Any:
    """The value of a line `NAME: "json"` of the user's message."""
    for line in user_text(payload).splitlines():
        head, sign, value = line.partition(": ")
        if sign and head.lower() == name.lower():
            return json.loads(value)
    raise KeyError(name)


def _in_order(responses: Iterable[Any]) -> Script:
    left = list(responses)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]
