"""The errors that a command says in one line, without the name of a class."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad arguments, recipe, placement, input, machine or run directory: exit status 2."""


class RunError(RuntimeError):
    """The run cannot go on: exit status 1. Parts that are written stay."""
