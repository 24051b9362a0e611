"""The two ways to run shards: one worker process, or Ray Data. Both give the same parts."""

from __future__ import annotations

from pipeline.engine.local import run_local
from pipeline.engine.on_ray import run_on_ray, start_ray
from pipeline.engine.work import Monitor, Work


def run_shards(work: Work, monitor: Monitor, *, local: bool) -> None:
    """Run the shards with the engine that was asked for."""
    if local:
        run_local(work, monitor)
        return
    import ray  # noqa: PLC0415  # so that commands which do not run anything start at once

    ours = not ray.is_initialized()
    if ours:
        start_ray()
    try:
        run_on_ray(work, monitor)
    finally:
        if ours:
            ray.shutdown()
