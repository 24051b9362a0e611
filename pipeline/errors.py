"""The one error that is the user's to mend."""

from __future__ import annotations


class UsageError(ValueError):
    """Bad arguments, recipe, placement, input or run directory: one line, exit status 2."""
