"""Peak memory of the driver and of its workers over a long run, and whether it grows."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import psutil
from measure import header, quiet, scratch

from pipeline.demo.scenes import write_scenes

MIB = 2**20


def sample(driver: psutil.Process) -> tuple[float, float]:
    """Unique memory of the driver, and the largest of a shard actor's, in MiB."""
    own = driver.memory_full_info().uss / MIB
    workers = [0.0]
    for child in driver.children(recursive=True):
        try:
            name = " ".join(child.cmdline())
            if "ShardActor" in name or "spawn_main" in name:
                workers.append(child.memory_full_info().uss / MIB)
        except psutil.Error:  # it ended between the two calls
            continue
    return own, max(workers)


def watch(command: list[str]) -> tuple[list[tuple[float, float, float]], int]:
    """Run a command: (seconds, driver MiB, largest worker MiB) every second, and its status."""
    started = monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    driver = psutil.Process(child.pid)
    samples = []
    while child.poll() is None:
        try:
            samples.append((monotonic() - started, *sample(driver)))
        except psutil.Error:
            break
        sleep(1.0)
    return samples, child.wait()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--recipe", default="crop")
    args = parser.parse_args()
    quiet()
    print(header("Memory over a long run"))
    print(
        f"{args.seeds:,} synthetic scenes of {args.side} px through `{args.recipe}` on Ray, "
        "2 actors. Unique memory (USS) in MiB, sampled every second: the driver, and the "
        "largest worker.\n"
    )
    with scratch() as folder:
        seeds = write_scenes(Path(folder, "in"), args.seeds, side=args.side)
        run = [sys.executable, "-m", "pipeline", "run", args.recipe]
        samples, status = watch([*run, "--input", str(seeds), "--output", str(folder / "run")])
        size = sum(path.stat().st_size for path in Path(folder, "run").rglob("*"))
    print("| part of the run | driver, peak | worker, peak |")
    print("|---|---|---|")
    for quarter in range(4):
        part = samples[quarter * len(samples) // 4 : (quarter + 1) * len(samples) // 4]
        driver, worker = max(s[1] for s in part), max(s[2] for s in part)
        print(f"| quarter {quarter + 1} | {driver:.0f} | {worker:.0f} |")
    print(
        f"\n{samples[-1][0]:.0f} s in all, exit status {status}, "
        f"run directory {size / 10**6:.0f} MB."
    )


if __name__ == "__main__":
    main()
