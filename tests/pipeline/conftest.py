from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from tests.pipeline.harness import Bench, start_small_ray


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def small_ray() -> Iterator[None]:
    """One small Ray for the tests of a module, always shut down."""
    start_small_ray()
    yield
    ray.shutdown()
