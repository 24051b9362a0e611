"""Why a worker ended, as text, because not every error survives pickling."""

from __future__ import annotations

from dataclasses import dataclass

from stages.base import ServiceDown


class OpenError(Exception):
    """A stage could not be opened; `__cause__` says why."""

    def __init__(self, stage: str) -> None:
        """`stage` is its name in the recipe."""
        super().__init__(stage)
        self.stage = stage


@dataclass(frozen=True)
class Failure:
    """Why a worker cannot continue. As text, because not every error survives pickling."""

    text: str
    """One line for a person."""
    is_setup: bool
    """Whether the recipe, the placement or the machine is to be put right, not the code."""


def failure_of(error: BaseException) -> Failure:
    """An error that no row is to blame for."""
    if isinstance(error, ServiceDown):
        return Failure(f"{_line(error)}; the same command resumes the run", is_setup=False)
    if isinstance(error, OpenError):
        cause = error.__cause__
        assert cause is not None
        if isinstance(cause, ServiceDown):
            return failure_of(cause)
        # A missing checkpoint and a missing device are `ValueError`s that say all there is to say.
        is_setup = isinstance(cause, ValueError)
        why = _line(cause) if is_setup else f"{type(cause).__name__}: {_line(cause)}"
        return Failure(f"stage {error.stage} cannot be opened: {why}", is_setup)
    return Failure(f"{type(error).__name__}: {_line(error)}", is_setup=False)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:2000]
