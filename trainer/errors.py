"""What can go wrong that is not a bug: one line each, and what to do about it."""

from __future__ import annotations

from schemas.errors import UsageError

__all__ = ["CheckpointFileError", "NonFiniteLossError", "UsageError"]


class CheckpointFileError(RuntimeError):
    """A checkpoint could not be written or read; those written before are whole."""


class NonFiniteLossError(RuntimeError):
    """The loss or its gradient is NaN or infinite; the message names the rows."""
