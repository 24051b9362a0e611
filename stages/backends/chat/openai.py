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
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from annotated_types import Ge, Gt

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
from stages.base import OPERATIONAL, Device, ServiceDown
from stages.language.chat import Answer, Form, Reply, Request, Unanswered

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
PROBE_TIMEOUT_S = 10.0

_OWN_KEYS = frozenset(("model", "messages", "temperature", "top_p", "seed", "response_format"))
_OWN_KEYS |= {"max_tokens", "max_completion_tokens", "stream", "n"}
"""Keys of a request's body that say what the recipe says, or how the reply is read: whole, one."""


class _Passing(Exception):  # noqa: N818  # a state of the endpoint that may pass
    """A failure that may be gone in a while; `pause_s` is what the endpoint asked for."""

    def __init__(self, what: str, pause_s: float | None = None, *, overload: bool = False) -> None:
        super().__init__(what)
        self.pause_s = pause_s
        self.overload = overload


@dataclass
class OpenAIChat:
    """A chat model behind a URL."""

    name: Literal["openai_chat"] = "openai_chat"
    """Selects this backend."""
    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """The model's name at the endpoint."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the endpoint holds a reply to its schema: by `response_format` with the schema, by
    `response_format` for any JSON object, or not at all; in the last two, words ask for it."""
    max_tokens_key: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of a reply; OpenAI's reasoning models want the latter."""
    send_seed: bool = True
    """Whether the endpoint takes `seed`. Without it replies are not the same a second time, unless
    they are cached."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """More keys of the request: {"chat_template_kwargs": {"enable_thinking": false}}. None that the
    recipe sets elsewhere."""
    base_url: str | None = field(default=None, metadata=OPERATIONAL)
    """The endpoint with its version: "http://localhost:8000/v1". None takes the environment
    variable OPENAI_BASE_URL. Moving a model to another endpoint changes no row."""
    api_key_env: str | None = field(default=None, metadata=OPERATIONAL)
    """Name of the environment variable that holds the key, on every machine that asks; the key
    itself stands nowhere. None for an endpoint that wants none."""
    cache: str | None = field(default=None, metadata=OPERATIONAL)
    """Folder or URL (`s3://`, `gs://`) in which replies are kept and looked up. None keeps none."""
    concurrency: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Requests under way at once, of each actor that has this stage."""
    timeout_s: Annotated[float, Gt(0)] = field(default=90.0, metadata=OPERATIONAL)
    """Limit for one request; it is then tried again."""
    patience_s: Annotated[float, Ge(0)] = field(default=120.0, metadata=OPERATIONAL)
    """How long a request that fails is tried again. With `timeout_s` at most `call_limit_s`, so
    that a row on which the endpoint fails is dropped before the run stops."""
    call_limit_s: Annotated[float, Gt(0)] = field(default=240.0, metadata=OPERATIONAL)
    """Limit for a micro-batch of requests with all tries and repairs; then the run stops and can be
    resumed. Below the placement's `time_limit_s` (300 by default), at which a row is blamed."""
    prompt_price: Annotated[float, Ge(0)] = field(default=0.0, metadata=OPERATIONAL)
    """Dollars for a million tokens read."""
    completion_price: Annotated[float, Ge(0)] = field(default=0.0, metadata=OPERATIONAL)
    """Dollars for a million tokens written."""

    # `Any`: the recipe reader resolves the types of all fields, and openai is imported late.
    _client: Any = field(default=None, init=False, repr=False, compare=False)
    _runner: Any = field(default=None, init=False, repr=False, compare=False)
    _slots: Any = field(default=None, init=False, repr=False, compare=False)
    _key: str = field(default="", init=False, repr=False, compare=False)
    _last_success: float = field(default=float("-inf"), init=False, repr=False, compare=False)
    _counts: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Refuse what would carry a secret into a recipe, or what the backend sets itself."""
        if self.api_key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.api_key_env):
            # The value is not shown: it may be the key.
            raise ValueError(
                "api_key_env must be the NAME of an environment variable (A-Z, 0-9, _), such as "
                "OPENAI_API_KEY; a key itself must not stand in a recipe"
            )
        if self.base_url is not None:
            check_address(self.base_url)
        if self.timeout_s + self.patience_s > self.call_limit_s:
            raise ValueError(
                f"timeout_s {self.timeout_s:g} and patience_s {self.patience_s:g} are together "
                f"more than call_limit_s {self.call_limit_s:g}; raise it, and the placement's "
                "time_limit_s above it"
            )
        if own := _OWN_KEYS & set(self.extra_body):
            raise ValueError(
                f"extra_body sets {min(own)}, which this backend sets itself; what a recipe may "
                "choose of it has a setting of its own"
            )

    def open(self, device: Device) -> None:  # noqa: ARG002  # the model is elsewhere
        """Connect to nothing yet; ValueError without an address, or without the key named."""
        import openai

        url = self.base_url or os.environ.get("OPENAI_BASE_URL")
        if not url:
            raise ValueError(
                f"no endpoint for {self.model}: set base_url of its stage (http://HOST:8000/v1), "
                "or OPENAI_BASE_URL"
            )
        check_address(url)
        if self.api_key_env is not None:
            self._key = os.environ.get(self.api_key_env, "").strip()
            if not self._key:
                raise ValueError(
                    f"environment variable {self.api_key_env} is not set here; it must hold the "
                    f"key for {url} on every machine that asks it"
                )
        # Ours alone retries: one clock for all tries of a request.
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none", base_url=url, max_retries=0, timeout=self.timeout_s
        )
        self._runner = asyncio.Runner()
        self._slots = asyncio.Semaphore(self.concurrency)

    def close(self) -> None:
        """Close the connections."""
        if self._runner is not None:
            if self._client is not None:
                self._runner.run(self._client.close())
            self._runner.close()
        self._client = self._runner = self._slots = None

    def chat(self, requests: Sequence[Request[Answer]]) -> list[Reply[Answer] | Unanswered]:
        """One result per request, in order. Requests that are equal, seed and all, are asked once.

        Raises ServiceDown if the endpoint is down for `patience_s`, refuses the key, does not have
        the model, or is not done within `call_limit_s`.
        """
        return converse(requests, partial(self._complete, until=monotonic() + self.call_limit_s))

    def usage(self) -> Mapping[str, float]:
        """As `stages.base.Metered` names it; 0 dollars where the prices are not set."""
        return dict(self._counts)

    def _complete(
        self, requests: Sequence[Request[Any]], until: float
    ) -> list[Completion | Unanswered]:
        assert self._runner is not None, "open first"
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
        asked = request if self.structured == "json_schema" else in_words(request)
        sampling = request.sampling
        payload: dict[str, Any] = {
            "model": self.model,
            "messages": openai_messages(asked.messages),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            self.max_tokens_key: sampling.max_tokens,
        }
        if self.send_seed:
            payload["seed"] = request.seed & 0x7FFFFFFF  # some endpoints read 32 bits
        if form is not None and self.structured == "json_schema":
            schema = {"name": form.__name__, "schema": json_schema(form), "strict": True}
            payload["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif form is not None and self.structured == "json_object":
            payload["response_format"] = {"type": "json_object"}
        return {**payload, **self.extra_body}

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
                f"at the end of call_limit_s, {self.call_limit_s:g} s; give it a smaller "
                "micro_batch, or raise the limit, and the placement's time_limit_s above it"
            ) from None
        except BaseExceptionGroup as several:
            # The first that failed has cancelled the others; it says what is wrong.
            raise several.exceptions[0] from None
        return {key: task.result() for key, task in tasks.items()}

    async def _one(self, key: str, payload: Mapping[str, Any]) -> Completion | Unanswered:
        """A request's completion, from the cache or the endpoint."""
        assert self._slots is not None
        cache = CompletionCache(Folder.at(self.cache)) if self.cache is not None else None
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
                if monotonic() - started + pause > self.patience_s:
                    return await self._given_up(failure, attempt + 1, started)
                log.info("chat endpoint: %s; trying again in %.1f s", failure, pause)
                await asyncio.sleep(pause)
            else:
                self._last_success = monotonic()
                return result
        raise AssertionError("patience ends before")

    async def _ask(self, payload: Mapping[str, Any]) -> Completion | Unanswered:
        """One request; _Passing for what may pass, ServiceDown for what no row can help."""
        import openai

        assert self._client is not None
        self._count(requests=1)
        try:
            # The client's own limit is for each read: a trickle of bytes would never reach it.
            async with asyncio.timeout(self.timeout_s):
                answer = await self._client.post(
                    "/chat/completions", body=dict(payload), cast_to=object
                )
        except (openai.APITimeoutError, TimeoutError):
            raise _Passing(f"no reply within {self.timeout_s:g} s") from None
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
            key = f" (from {self.api_key_env})" if self.api_key_env else ", none was sent"
            raise ServiceDown(
                f"the chat endpoint {self._url()} {what[status]} for {self.model}{key}: {text}"
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
                completion.prompt_tokens * self.prompt_price
                + completion.completion_tokens * self.completion_price
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
        import openai

        assert self._client is not None
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
        return str(self._client.base_url).rstrip("/") if self._client is not None else ""

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
