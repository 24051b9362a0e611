"""Stages that are open, for tests that call them outside of a chain."""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

from stages.base import Device, Stage

S = TypeVar("S", bound=Stage[Any, Any])


def opened(stage: S) -> S:
    """The stage with its backends loaded on the CPU; they are closed when it is let go."""
    stage.open(Device())
    for model in stage.models():
        weakref.finalize(stage, model.close)
    return stage
