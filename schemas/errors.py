"""The error for a user's mistake, shown as one line by pipeline and trainer alike."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad arguments, settings, input, machine or folder: one line, exit status 2."""
