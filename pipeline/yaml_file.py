"""Reading YAML that a user wrote: whatever is wrong with it is one line that names the file."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.errors import UsageError
from schemas.names import unknown_key

_SECRET = re.compile("key|token|secret|password|url", re.IGNORECASE)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; plain YAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002  # as in the base class
        seen = set[str]()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value} stands there twice", key.start_mark
                )
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(what: str, path: Path) -> Any:
    """The content of a YAML file; UsageError says `what` it should have been."""
    try:
        return yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506  # a SafeLoader
    except FileNotFoundError:
        raise UsageError(f"{what} file {path} does not exist") from None
    except OSError as error:
        raise UsageError(f"{what} file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"{what} file {path} is not valid YAML: {message}") from None


def describe(error: ValidationError, settings: type[Any]) -> str:
    """A validation error in one line: each field, what is wrong with it, and the value.

    `settings` is the class that was to be made, whose keys an unknown one is held against.
    """
    parts = []
    for item in error.errors():
        if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            inside = ".".join(str(x) for x in item["loc"][:-1])
            parts.append(f"{inside and inside + ': '}{unknown_key(settings, item['loc'])}")
            continue
        place = ".".join(str(x) for x in item["loc"]) or "value"
        # A check over several settings has said which value is wrong; the others are not shown,
        # nor is what may be a secret.
        own_words = item["type"] == "value_error" and not isinstance(
            item["input"], str | int | float
        )
        hidden = own_words or _SECRET.search(place)
        shown = "" if hidden else f" (got {item['input']!r:.80})"
        parts.append(f"{place}: {item['msg']}{shown}")
    return "; ".join(parts)
