"""The errors that a command says in one line, without the name of a class."""

from __future__ import annotations

from schemas.errors import UsageError

__all__ = ["RunError", "UsageError"]


class RunError(RuntimeError):
    """The run cannot go on: exit status 1. Parts that are written stay."""
