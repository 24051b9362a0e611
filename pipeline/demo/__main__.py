"""`python -m pipeline.demo --output FOLDER`: write the demo's input, photos and scenes."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.demo.photos import write_photos
from pipeline.demo.scenes import scene_files

_LOG = logging.getLogger("nearmiss.demo")


def write_demo(folder: Path, num_scenes: int = 48, seed: int = 0, side: int = 384) -> Path:
    """Write `seeds.jsonl` and `images/` with the photos and `num_scenes` scenes of `side` pixels.

    Returns the input file. ValueError if scikit-image, which carries the photos, is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = [*write_photos(folder), *scene_files(folder, num_scenes, seed, side)]
    path = folder / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _LOG.info(
        "wrote %d rows (%d about photos, %d about scenes) to %s",
        len(rows),
        len(rows) - num_scenes,
        num_scenes,
        path,
    )
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 where the input cannot be written."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--scenes", type=int, default=48, help="synthetic scenes (default: 48)")
    parser.add_argument("--seed", type=int, default=0, help="decides the scenes (default: 0)")
    parser.add_argument("--side", type=int, default=384, help="pixels of a scene (default: 384)")
    options = parser.parse_args(arguments)
    if options.scenes < 0:
        parser.error(f"argument --scenes: {options.scenes} is negative")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        write_demo(options.output, options.scenes, options.seed, options.side)
    except (ValueError, OSError) as error:
        _LOG.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
