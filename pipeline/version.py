"""Which code this is."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@cache
def code_version() -> str:
    """Version of this project, with the commit where the code runs from a checkout."""
    try:
        number = version("nearmiss")
    except PackageNotFoundError:  # run from a bare checkout, as under `ray job submit`
        number = "0"
    # An image, or a job's working directory, has no .git: its build says what it holds.
    if commit := os.environ.get("NEARMISS_COMMIT"):
        return f"{number}+{commit}"
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return number
    git = subprocess.run(  # noqa: S603  # fixed arguments
        ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{number}+{git.stdout.strip()}" if git.returncode == 0 else number
