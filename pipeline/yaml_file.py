"""Reading YAML that a user wrote: whatever is wrong with it is one line that names the file."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UsageError


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
