"""What all chat backends share: a completion read as the answer asked for, and one repair.

A backend brings `complete`, which turns requests into completions; `converse` reads them, shows a
model whose reply does not fit what was wrong with it, once, and reads again.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

from pydantic import ValidationError

from schemas.records import Image, Reason
from stages.language.chat import Answer, Form, Message, Reply, Request, Unanswered

_MIME = {b"\xff\xd8\xff": "jpeg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)

MAX_SHOWN = 4000
"""Characters of a bad reply that the model is shown again, and that are kept as evidence."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote, before anybody read it."""

    text: str
    """Word for word."""
    refusal: str | None
    """The endpoint's or model's own statement that it declines; None where it does not."""
    cut_off: bool
    """Whether it ended at the limit of tokens."""
    prompt_tokens: int
    """Tokens read, images included, as the model counts them; 0 where it does not say."""
    completion_tokens: int
    """Tokens written."""


Complete = Callable[[Sequence[Request[Any]]], Sequence[Completion | Unanswered]]
"""One result per request, in order."""


@dataclass(frozen=True, slots=True)
class _Misfit:
    """A reply that is not what was asked for, but might be the second time."""

    why: str
    text: str


def converse(
    requests: Sequence[Request[Answer]], complete: Complete
) -> list[Reply[Answer] | Unanswered]:
    """One result per request: its completion read, and repaired once where it does not fit."""
    read = [_read(q, c) for q, c in zip(requests, complete(requests), strict=True)]
    todo = [i for i, result in enumerate(read) if isinstance(result, _Misfit)]
    again = [_repair(requests[i], cast("_Misfit", read[i])) for i in todo]
    second = complete(again) if again else []
    for i, request, completion in zip(todo, again, second, strict=True):
        first, result = cast("_Misfit", read[i]), _read(request, completion)
        if isinstance(result, _Misfit):
            result = Unanswered(
                Reason.BAD_REPLY,
                f"{result.why} (the first reply: {first.why})",
                f"{first.text}\n{result.text}",
            )
        read[i] = result
    return [cast("Reply[Answer] | Unanswered", result) for result in read]


@cache
def json_schema(form: type[Form]) -> dict[str, Any]:
    """The JSON schema that a form's reply must fit; all keys required, no others allowed."""
    return form.model_json_schema()  # a millisecond, which is much a request


def in_words(request: Request[Any]) -> Request[Any]:
    """The request with its form's schema at the end of the system message.

    For models that nothing but words holds to a schema. Free text is asked for as it is.
    """
    if not issubclass(request.answer, Form):
        return request
    schema = json.dumps(json_schema(request.answer), ensure_ascii=False)
    rule = (
        "Reply with one JSON object and nothing else: no remark before or after it, no code "
        f"fence. It must fit this JSON schema:\n{schema}"
    )
    first, rest = request.messages[0], request.messages[1:]
    if first.role == "system":
        messages = (Message("system", (*first.parts, rule)), *rest)
    else:
        messages = (Message("system", (rule,)), *request.messages)
    return replace(request, messages=messages)


def openai_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as OpenAI's chat API and vLLM take them, images as data URLs."""
    return [{"role": m.role, "content": _content(m)} for m in messages]


def data_url(image: Image) -> str:
    """The image as a data URL; ValueError if it is in no format that chat models take."""
    for magic, kind in _MIME.items():
        if image.bytes.startswith(magic):
            return f"data:image/{kind};base64,{base64.b64encode(image.bytes).decode()}"
    if image.bytes[:4] == b"RIFF" and image.bytes[8:12] == b"WEBP":
        return f"data:image/webp;base64,{base64.b64encode(image.bytes).decode()}"
    raise ValueError(
        f"image {image.path or ''} starts with {image.bytes[:8]!r}; JPEG, PNG, WebP, GIF and BMP "
        "can be shown to a chat model"
    )


def _content(message: Message) -> str | list[dict[str, Any]]:
    if all(isinstance(part, str) for part in message.parts):
        # Many chat templates take nothing but a string for the system and the assistant.
        return "\n".join(cast("tuple[str, ...]", message.parts))
    return [
        {"type": "image_url", "image_url": {"url": data_url(part)}}
        if isinstance(part, Image)
        else {"type": "text", "text": part}
        for part in message.parts
    ]


def _read(
    request: Request[Any], completion: Completion | Unanswered
) -> Reply[Any] | Unanswered | _Misfit:
    if isinstance(completion, Unanswered):
        return completion
    # Half a surrogate pair, which JSON can spell, has no place in Parquet.
    text = completion.text.encode("utf-8", "replace").decode().strip()
    shown = text[:MAX_SHOWN]
    if completion.refusal is not None:
        raw = (completion.refusal or text)[:MAX_SHOWN]
        return Unanswered(Reason.MODEL_REFUSED, "the model declined to answer", raw)
    if completion.cut_off:
        limit = request.sampling.max_tokens
        return Unanswered(Reason.BAD_REPLY, f"the reply was cut off at {limit} tokens", shown)
    if not issubclass(request.answer, Form):
        return Reply(text, text)
    why = "no JSON object"
    for found in _objects(text):
        try:
            return Reply(request.answer.model_validate(_without_surrogates(found)), text)
        except ValidationError as error:
            why = _describe(error)
        except RecursionError:
            why = "nested beyond measure"
    return _Misfit(why, shown)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects in a reply, the likeliest first: all of it, a fenced part, from a brace on."""
    fenced = [match.group(1) for match in _FENCE.finditer(text)]
    for piece in (text, *fenced):
        try:
            found = json.loads(piece)
        except (ValueError, RecursionError):  # not JSON, or nested beyond measure
            continue
        if isinstance(found, dict):
            yield found
            return
    decoder, at = json.JSONDecoder(), text.find("{")
    while at >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):  # not JSON, or nested beyond measure
            end = at + 1
        else:
            yield found
        at = text.find("{", end)


def _without_surrogates(found: dict[str, Any]) -> Any:
    return json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))


def _describe(error: ValidationError) -> str:
    """What is wrong with an object, without its values, which are the model's words."""
    parts = [
        f"{'.'.join(str(x) for x in item['loc']) or 'the object'}: {item['msg']}"
        for item in error.errors()
    ]
    return "; ".join(parts[:5])


def _repair(request: Request[Any], misfit: _Misfit) -> Request[Any]:
    """The request with the reply that did not fit, and what is wrong with it."""
    complaint = (
        f"That reply cannot be used: {misfit.why}. Reply again, with one JSON object that has all "
        "the fields asked for, in the form asked for, and nothing else."
    )
    turns = (Message("assistant", (misfit.text or "(empty)",)), Message("user", (complaint,)))
    return replace(request, messages=(*request.messages, *turns))
