"""Runs for tests: real recipes over generated scenes, with a saboteur behind the loader.

`python -m tests.pipeline.harness` is a driver that a test can kill.
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.recipes.build import RecipeBook, load_recipe
from pipeline.run import Request, run
from pipeline.run_folder import RunFolder
from pipeline.sources import open_source
from tests.workers.fakes import Doomed, Saboteur
from workers.chain import Link


@dataclass(frozen=True)
class Trouble:
    """What a test run is like."""

    raises: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()
    hangs: tuple[str, ...] = ()
    mended: str = ""
    sleep_s: float = 0.0
    waits: tuple[str, ...] = ()
    waits_for: str = ""
    """The file that these seeds wait for."""
    shard_size: int = 4
    time_limit_s: float = 60.0
    micro_batch: int = 2
    recipe: str = "crop"
    split: bool = False
    """Two actor groups instead of one."""
    num_cpus: float = 0.5
    """CPUs of an actor of these groups."""
    min_errors: int = 1000
    max_actors: int | None = None
    doomed: str = ""
    """How the second stage keeps the run from going on, see `Doomed`."""
    folder: str = ""
    """The folder of `Doomed`."""
    stall_limit_s: float = 1800.0


@dataclass(frozen=True)
class Bench:
    """An input and a run directory."""

    folder: Path
    num: int = 16
    side: int = 96
    run_dir: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_dir", self.folder / "run")

    @property
    def input(self) -> str:
        path = self.folder / "input" / "seeds.jsonl"
        if not path.exists():
            write_scenes(path.parent, self.num, side=self.side)
        return str(path)

    @property
    def ids(self) -> list[str]:
        lines = Path(self.input).read_text("utf-8").splitlines()
        return [json.loads(line)["id"] for line in lines]

    def request(self, trouble: Trouble, *, local: bool = False) -> Request:
        return Request(
            book=book(trouble),
            placement=placement(trouble),
            source=open_source(self.input),
            output=str(self.run_dir),
            local=local,
        )

    def driver(self, trouble: Trouble, *, local: bool = False) -> subprocess.Popen[bytes]:
        """The same run in a process of its own."""
        assert self.input, "made here: a driver that is killed may leave half of it"
        asked = json.dumps({"trouble": asdict(trouble), "local": local, "num": self.num})
        command = [sys.executable, "-m", "tests.pipeline.harness", str(self.folder), asked]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def rows(self) -> list[dict[str, Any]]:
        """All outcomes, in order."""
        tables = RunFolder.open(str(self.run_dir)).outcomes()
        rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
        for row in rows:
            # It names the commit, and somebody may commit while two runs are compared.
            del row["provenance"]["code_version"]
        return rows

    def check_all_accounted_for(self, *, each: int = 1) -> None:
        """Every seed of the input has exactly `each` outcomes, and no other has any."""
        assert Counter(row["seed_id"] for row in self.rows()) == dict.fromkeys(self.ids, each)
        manifest = RunFolder.open(str(self.run_dir)).seeds()
        assert [ref.seed_id for ref in manifest] == self.ids


def book(trouble: Trouble) -> RecipeBook:
    whole = load_recipe(trouble.recipe, [f"shard_size={trouble.shard_size}"])
    if trouble.recipe != "crop":
        return whole
    saboteur = Saboteur(
        raises=tuple(trouble.raises),
        exits=tuple(trouble.exits),
        hangs=tuple(trouble.hangs),
        mended=trouble.mended,
        sleep_s=trouble.sleep_s,
        waits=tuple(trouble.waits),
        waits_for=trouble.waits_for,
    )
    (recipe,) = whole.recipes
    links = (recipe.links[0], Link("saboteur", saboteur), *recipe.links[1:])
    if trouble.doomed:
        doomed = Link("doomed", Doomed(trouble.doomed, trouble.folder))
        links = (links[0], doomed, *links[1:])
    return replace(whole, recipes=(replace(recipe, links=links),))


def placement(trouble: Trouble) -> Placement:
    common = {
        "micro_batch": trouble.micro_batch,
        "time_limit_s": trouble.time_limit_s,
        "max_actors": trouble.max_actors,
    }
    groups = [GroupPlacement(**common)]
    if trouble.split:
        first = ["loader", "saboteur", "annotated_regions", "segmenter"]
        groups = [GroupPlacement(stages=first, num_cpus=trouble.num_cpus, **common)]
        groups += [GroupPlacement(num_cpus=trouble.num_cpus, **common)]
    return Placement(
        name="test",
        groups=groups,
        min_errors=trouble.min_errors,
        stall_limit_s=trouble.stall_limit_s,
    )


def start_small_ray(**more: Any) -> None:
    """Ray as the tests want it."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=150 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        **more,
    )


def main() -> int:
    folder, text = sys.argv[1:]
    asked = json.loads(text)
    bench = Bench(Path(folder), asked["num"])
    if not asked["local"]:
        start_small_ray()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return run(bench.request(Trouble(**asked["trouble"]), local=asked["local"]))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    sys.exit(main())
