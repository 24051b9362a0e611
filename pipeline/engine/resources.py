"""CPUs and GPUs that a run can use: of the cluster that RAY_ADDRESS names, or of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs, as placements count them."""

    num_cpus: float
    """CPUs."""
    num_gpus: float | None
    """GPUs; None if neither torch nor nvidia-smi is installed."""
    where: str
    """For a person: "in the cluster", "on this machine"."""


def in_cluster() -> bool:
    """Whether RAY_ADDRESS names a running cluster."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


def resources() -> Resources:
    """The resources that a run would find; connects to the cluster if there is one."""
    if in_cluster():
        import ray  # noqa: PLC0415  # only where there is a cluster

        ours = not ray.is_initialized()
        if ours:
            ray.init(log_to_driver=False)
        there = ray.cluster_resources()
        if ours:
            ray.shutdown()
        return Resources(there.get("CPU", 0.0), there.get("GPU", 0.0), "in the cluster")
    return Resources(float(os.cpu_count() or 1), _local_gpus(), "on this machine")


def gpu_memory() -> int | None:
    """Bytes of the smallest GPU of this machine; None without nvidia-smi."""
    lines = _nvidia_smi("memory.total")
    return min(int(line) * 2**20 for line in lines) if lines else None


def _local_gpus() -> float | None:
    lines = _nvidia_smi("name")
    if lines is not None:
        return float(len(lines))
    return 0.0 if find_spec("torch") is not None else None


def _nvidia_smi(field: str) -> list[str] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return result.stdout.split("\n")[:-1] if result.returncode == 0 else None
