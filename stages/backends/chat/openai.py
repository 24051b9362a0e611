"""Any OpenAI-compatible chat endpoint: `vllm serve`, SGLang, `transformers serve`, hosted models.

Many requests are under way at once. What passes (429, 5xx, a cut connection, silence) is tried
again, with growing pauses or as the endpoint asks; what does not pass is either one row's trouble
or, if the endpoint answers nobody, the end of the run, which can be resumed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt

from stages.backends.chat.address import check_address
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.chat.openai_model import OpenAIChatModel

_OWN_KEYS = frozenset(("model", "messages", "temperature", "top_p", "seed", "response_format"))
_OWN_KEYS |= {"max_tokens", "max_completion_tokens", "stream", "n"}
"""Keys of a request's body that say what the recipe says, or how the reply is read: whole, one."""


@dataclass(frozen=True)
class OpenAIChatSettings(Settings):
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

    def load(self, device: Device) -> OpenAIChatModel:  # noqa: ARG002  # it is elsewhere
        """Connect to nothing yet; ValueError without an address, or without the key named."""
        from stages.backends.chat.openai_model import OpenAIChatModel

        return OpenAIChatModel(self)
