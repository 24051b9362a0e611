"""The error of a person's making, which every half of the project says in one line."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad arguments, settings, input, machine or folder: one line, exit status 2."""
