"""Any OpenAI-compatible chat endpoint: `vllm serve`, SGLang, `transformers serve`, hosted models.

Many requests are under way at once. What passes (429, 5xx, a cut connection, silence) is tried
again, with growing pauses or as the endpoint asks; what does not pass is either one row's trouble
or, if the endpoint answers nobody, the end of the run, which can be resumed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import openai

from schemas.files import Folder
from schemas.ids import content_id, row_seed
from schemas.records import Reason
from stages.backends.chat.address import check_address
from stages.backends.chat.cache import CompletionCache
from stages.backends.chat.replies import (
    Completion,
    converse,
    in_words,
    json_schema,
    openai_messages,
)
from stages.backends.chat.retry_after import retry_after_s
from stages.base import ServiceDown
from stages.language.chat import Answer, Form, Reply, Request, Unanswered

if TYPE_CHECKING:
    from stages.backends.chat.openai import OpenAIChatSettings

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5

LONGEST_PAUSE_S = 30.0

PROBE_TIMEOUT_S = 10.0


class _Passing(Exception):  # noqa: N818  # a state of the endpoint that may pass
    """A failure that may be gone in a while; `pause_s` is what the endpoint asked for."""

    def __init__(self, what: str, pause_s: float | None = None, *, overload: bool = False) -> None:
        super().__init__(what)
        self.pause_s = pause_s
        self.overload = overload


class OpenAIChatModel:
    """A chat model behind a URL."""

    def __init__(self, settings: OpenAIChatSettings) -> None:
        """Connect to nothing yet; ValueError without an address, or without the key named."""
        self.settings = settings
        self._key = ""
        self._last_success = float("-inf")
        self._counts: dict[str, float] = {}
        url = settings.base_url or os.environ.get("OPENAI_BASE_URL")
        if not url:
            raise ValueError(
                f"no endpoint for {settings.model}: set base_url of its stage "
                "(http://HOST:8000/v1), or OPENAI_BASE_URL"
            )
        check_address(url)
        if settings.api_key_env is not None:
            self._key = os.environ.get(settings.api_key_env, "").strip()
            if not self._key:
                raise ValueError(
                    f"environment variable {settings.api_key_env} is not set here; it must hold "
                    f"the key for {url} on every machine that asks it"
                )
        # Ours alone retries: one clock for all tries of a request.
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=url, max_retries=0, timeout=settings.timeout_s
        )
        self._runner = asyncio.Runner()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._open = True

    def close(self) -> None:
        """Close the connections; safe to call twice."""
        if self._open:
            self._open = False
            self._runner.run(self._client.close())
            self._runner.close()

    def chat(self, requests: Sequence[Request[Answer]]) -> list[Reply[Answer] | Unanswered]:
        """One result per request, in order. Requests that are equal, seed and all, are asked once.

        Raises ServiceDown if the endpoint is down for `patience_s`, refuses the key, does not have
        the model, or is not done within `call_limit_s`.
        """
        return converse(
            requests, partial(self._complete, until=monotonic() + self.settings.call_limit_s)
        )

    def usage(self) -> Mapping[str, float]:
        """As `stages.base.Metered` names it; 0 dollars where the prices are not set."""
        return dict(self._counts)

    def _complete(
        self, requests: Sequence[Request[Any]], until: float
    ) -> list[Completion | Unanswered]:
        payloads = {}
        keys = []
        for request in requests:
            payload = self._payload(request)
            # The seed counts where it is not sent, too: samples and votes differ in nothing else.
            keys.append(content_id("chat 2", json.dumps(payload, sort_keys=True), request.seed))
            payloads[keys[-1]] = payload
        results = self._runner.run(self._all(payloads, until))
        return [results[key] for key in keys]

    def _payload(self, request: Request[Any]) -> dict[str, Any]:
        """The request's body: with the seed, all that decides its reply."""
        form = request.answer if issubclass(request.answer, Form) else None
        asked = request if self.settings.structured == "json_schema" else in_words(request)
        sampling = request.sampling
        payload: dict[str, Any] = {
            "model": self.settings.model,
            "messages": openai_messages(asked.messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self.settings.max_tokens_key: sampling.max_tokens,
        }
        if self.settings.send_seed:
            payload["seed"] = request.seed & 0x7FFFFFFF  # some endpoints read 32 bits
        if form is not None and self.settings.structured == "json_schema":
            schema = {"name": form.__name__, "schema": json_schema(form), "strict": True}
            payload["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form is not None and self.settings.structured == "json_object":
            payload["response_format"] = {"type": "json_object"}
        return {**payload, **self.settings.extra_body}

    async def _all(
        self, payloads: Mapping[str, Mapping[str, Any]], until: float
    ) -> dict[str, Completion | Unanswered]:
        tasks = {}
        try:
            async with asyncio.timeout(until - monotonic()), asyncio.TaskGroup() as group:
                tasks = {k: group.create_task(self._one(k, p)) for k, p in payloads.items()}
        except TimeoutError:
            left = sum(task.cancelled() for task in tasks.values())
            raise ServiceDown(
                f"the chat endpoint {self._url()} left {left} of {len(tasks)} requests unanswered "
                f"at the end of call_limit_s, {self.settings.call_limit_s:g} s; give it a smaller "
                "micro_batch, or raise the limit, and the placement's time_limit_s above it"
            ) from None
        except BaseExceptionGroup as several:
            # The first that failed has cancelled the others; it says what is wrong.
            raise several.exceptions[0] from None
        return {key: task.result() for key, task in tasks.items()}

    async def _one(self, key: str, payload: Mapping[str, Any]) -> Completion | Unanswered:
        """A request's completion, from the cache or the endpoint."""
        cache = (
            CompletionCache(Folder.at(self.settings.cache))
            if self.settings.cache is not None
            else None
        )
        async with self._slots:
            if cache and (known := await asyncio.to_thread(cache.get, key)):
                self._count(cached=1)
                return known
            result = await self._ask_patiently(key, payload)
            if cache and isinstance(result, Completion):
                await asyncio.to_thread(cache.put, key, result)
        return result

    async def _ask_patiently(self, key: str, payload: Mapping[str, Any]) -> Completion | Unanswered:
        started = monotonic()
        for attempt in range(1_000_000):
            try:
                result = await self._ask(payload)
            except _Passing as failure:
                pause = failure.pause_s
                if pause is None:
                    pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(attempt, 10))
                    # From half to one and a half, so that many clients do not come back at once.
                    pause *= 0.5 + row_seed(0, key, "pause", attempt) / 2**63
                if monotonic() - started + pause > self.settings.patience_s:
                    return await self._given_up(failure, attempt + 1, started)
                log.info("chat endpoint: %s; trying again in %.1f s", failure, pause)
                await asyncio.sleep(pause)
            else:
                self._last_success = monotonic()
                return result
        raise AssertionError("patience ends before")

    async def _ask(self, payload: Mapping[str, Any]) -> Completion | Unanswered:
        """One request; _Passing for what may pass, ServiceDown for what no row can help."""
        self._count(requests=1)
        try:
            # The client's own limit is for each read: a trickle of bytes would never reach it.
            async with asyncio.timeout(self.settings.timeout_s):
                answer = await self._client.post(
                    "/chat/completions", body=dict(payload), cast_to=object
                )
        except (openai.APITimeoutError, TimeoutError):
            raise _Passing(f"no reply within {self.settings.timeout_s:g} s") from None
        except openai.APIStatusError as error:
            return self._refused_request(error)
        except openai.APIConnectionError as error:
            raise _Passing(self._scrub(f"no connection ({error.__cause__ or error})")) from None
        return self._completion(answer)

    def _refused_request(self, error: openai.APIStatusError) -> Unanswered:
        """What an HTTP error means; raises unless it is this request's own fault."""
        status, text = error.status_code, self._scrub(_message(error))
        if status in (408, 409, 429) or status >= 500:
            pause = retry_after_s(error.response.headers)
            raise _Passing(f"HTTP {status} ({text})", pause, overload=status in (429, 503))
        if status == 401 or (status in (403, 404) and self._last_success < 0):
            what = {401: "refuses the key", 403: "refuses access", 404: "has no such model or path"}
            key = (
                f" (from {self.settings.api_key_env})"
                if self.settings.api_key_env
                else ", none was sent"
            )
            raise ServiceDown(
                f"the chat endpoint {self._url()} {what[status]} for {self.settings.model}{key}: "
                f"{text}"
            ) from None
        return Unanswered(Reason.REQUEST_FAILED, f"HTTP {status}: {text}")

    def _completion(self, answer: object) -> Completion:
        """The first choice of a reply; _Passing for what is no chat completion (a proxy's page)."""
        try:
            assert isinstance(answer, dict)
            choice = answer["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content") or "", message.get("refusal")
            usage = answer.get("usage") or {}
            finish = choice.get("finish_reason")
            completion = Completion(
                text=str(text),
                refusal=str(refusal or "") if refusal or finish == "content_filter" else None,
                cut_off=finish == "length",
                prompt_tokens=int(usage.get("prompt_tokens") or 0),
                completion_tokens=int(usage.get("completion_tokens") or 0),
            )
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError):
            shown = self._scrub(" ".join(str(answer).split()))[:200]
            raise _Passing(f"no chat completion but {shown!r}") from None
        self._count(
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            cost_usd=(
                completion.prompt_tokens * self.settings.prompt_price
                + completion.completion_tokens * self.settings.completion_price
            )
            / 1e6,
        )
        return completion

    async def _given_up(self, failure: _Passing, tries: int, started: float) -> Unanswered:
        """The row's own trouble if the endpoint is well otherwise; else ServiceDown."""
        waited = f"{tries} tries in {monotonic() - started:.0f} s"
        if not failure.overload and (self._last_success > started or await self._is_alive()):
            return Unanswered(Reason.REQUEST_FAILED, f"{failure}; {waited}")
        raise ServiceDown(f"the chat endpoint {self._url()} is down: {failure}; {waited}")

    async def _is_alive(self) -> bool:
        """Whether the endpoint answers what costs nothing and concerns no row.

        All list their models; `transformers serve` fails at that where it has no cache, and, like
        vLLM and SGLang, has a page on its health.
        """
        parts = urlsplit(self._url())
        for path in ("/models", f"{parts.scheme}://{parts.netloc}/health"):
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await self._client.get(path, cast_to=object)
            except openai.APIStatusError as error:
                if error.status_code < 500:
                    return True
            except (openai.APIConnectionError, TimeoutError):
                continue
            else:
                return True
        return False

    def _url(self) -> str:
        return str(self._client.base_url).rstrip("/")

    def _scrub(self, text: str) -> str:
        """The text without the key, which endpoints like to repeat in their errors."""
        return text.replace(self._key, "[key]") if self._key else text

    def _count(self, **numbers: float) -> None:
        for name, number in numbers.items():
            self._counts[name] = self._counts.get(name, 0) + number


def _message(error: openai.APIStatusError) -> str:
    """What the endpoint says is wrong; each kind of server has its own place for it."""
    body = error.body if isinstance(error.body, dict) else {}
    text = body.get("message") or body.get("detail") or error.response.text or str(error)
    return " ".join(str(text).split())[:300]
