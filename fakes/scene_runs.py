"""Whole runs of `edit` and `synthesis` over scenes, on models that know the truth and fail at will.

Everything but the models is real: recipes, engine, stages, HTTP, parts. The result is held against
the truth, pair by pair.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from fakes.chat_server import ChatServer
from fakes.scene_models import (
    SIDE,
    SceneChat,
    SceneEditor,
    ScenePainter,
    carried_out,
    fallible_samples,
)
from fakes.scene_truth import Register, holds, read_facts, same_things
from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.recipes.build import RecipeBook, load_recipe
from pipeline.run import Request, run
from pipeline.sources import open_source
from schemas.files import Folder
from schemas.ids import row_seed
from schemas.shards import read_part
from workers.chain import Link

EMBEDDERS = (
    "embedder.appearance=color_layout",
    "embedder.detail=gradient_grid",
    # Limits belong to the embedder: to this one, two things that swap places are another layout.
    "double_threshold.limits.relation={min_appearance: 0.4}",
    "double_threshold.limits.object={min_appearance: 0.6}",
)


@dataclass
class Trial:
    """A run's settings, and what came of it."""

    folder: Path
    recipe: str = "edit"
    num: int = 40
    faults: dict[str, float] = field(default_factory=dict)
    """Settings of `SceneEditor` or `ScenePainter`."""
    lies: float = 0.0
    overrides: tuple[str, ...] = ()
    samples_right: float = 0.5
    local: bool = True
    rows: list[dict[str, Any]] = field(default_factory=list)
    register: Register = field(init=False)
    asked: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("register", "input"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.register = Register(self.folder / "register")

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def run(self, url: str = "") -> Trial:
        """Make everything, run it, and read its rows; `url` is of another endpoint than ours."""
        self.register.add_scenes(self.num, 0, SIDE)
        seeds = write_scenes(self.folder / "input", self.num, 0, SIDE)
        samples = fallible_samples(self.num, 0, self.samples_right)
        chat = SceneChat(self.register, self.num, lies=self.lies, samples=samples)
        with ChatServer(chat) as server:
            request = Request(
                book=self._book(url or server.url),
                placement=Placement(name="test", groups=[GroupPlacement(micro_batch=16)]),
                source=open_source(str(seeds)),
                output=str(self.run_dir),
                local=self.local,
            )
            assert run(request) == 0, "the run did not complete"
        self.asked = chat.asked
        folder = Folder.at(str(self.run_dir))
        shards = range(len(folder.names("parts")))
        self.rows = pa.concat_tables([t for s in shards for t in read_part(folder, s)]).to_pylist()
        return self

    def _book(self, url: str) -> RecipeBook:
        """The shipped recipe with the scripted endpoint for all chat models, and our own models."""
        book = load_recipe(self.recipe, [*EMBEDDERS, *self._chat_settings(url), *self.overrides])
        (recipe,) = book.recipes
        folder = str(self.register.folder)
        backends: dict[str, Any] = {
            "editor": SceneEditor(folder, **self.faults) if self.recipe == "edit" else None,
            "synthesizer": ScenePainter(folder, **self.faults)
            if self.recipe == "synthesis"
            else None,
        }
        links = tuple(
            Link(link.name, replace(link.stage, backend=backends[link.name]))
            if backends.get(link.name)
            else link
            for link in recipe.links
        )
        return replace(book, recipes=(replace(recipe, links=links),))

    def _chat_settings(self, url: str) -> list[str]:
        if self.recipe == "edit":
            stages = ["planner.chat", "chat_verifier.chat"]
            if not any(o == "editor.check=null" for o in self.overrides):
                stages.append("editor.check")
            return [f"{stage}.base_url={url}" for stage in stages]
        stages = ["judge.chat", "describer.chat", "chat_verifier.chat"]
        return [
            "sampler.chat=openai_chat",
            f"synthesizer.side={SIDE}",
            *(f"{stage}.base_url={url}" for stage in ("sampler.chat", *stages)),
        ]

    # What came of it.

    @property
    def pairs(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["status"] == "pair"]

    @property
    def reasons(self) -> Counter[str]:
        return Counter(row["reason"] for row in self.rows if row["status"] == "drop")

    def is_right(self, row: dict[str, Any]) -> bool:
        """Whether a row's images and answers are what a pair must be, by the truth."""
        first = self.register.facts(row["chosen_image"]["bytes"])
        if self.recipe == "edit":
            note = self._note(row)
            second = read_facts(note)
        else:
            note, second = {}, self.register.facts(row["rejected_image"]["bytes"])
        answers = holds(row["chosen"], first) and not holds(row["chosen"], second)
        other = holds(row["counterfactual"], second) and not holds(row["counterfactual"], first)
        if self.recipe != "edit":
            return answers and other
        meant = carried_out(row["contrast"]["instruction"], first, 0.0)
        nothing_else = meant is not None and same_things(second, meant)
        return answers and other and nothing_else and note["fault"] != "drifts"

    def _note(self, row: dict[str, Any]) -> dict[str, Any]:
        """What the editor noted of the edit that a row was made from."""
        params = {p["name"]: p["value"] for p in row["provenance"]["params"]}
        run_seed, number = row["provenance"]["run_seed"], int(params["attempt"])
        return self.register.note_of(row_seed(run_seed, row["seed_id"], "editor", number))

    def judged(self) -> Counter[tuple[bool, bool]]:
        """(right, let through) of the candidates that reached the verifier."""
        reached = [
            row for row in self.rows if row["status"] == "pair" or (row["stage"] == "chat_verifier")
        ]
        return Counter((self.is_right(row), row["status"] == "pair") for row in reached)

    def edits(self) -> Counter[str]:
        """Edits that were made, by what went wrong with them ("" for right)."""
        notes = [note for note in self.register.notes() if "fault" in note]
        return Counter(note["fault"] for note in notes)

    def seeds_with_a_right_edit(self) -> int:
        """Rows of which at least one edit was right."""
        return len({n["index"] for n in self.register.notes() if n.get("right")})


if __name__ == "__main__":
    # A run against another endpoint, with a key, in a process of its own.
    logging.basicConfig(level=logging.DEBUG)
    folder, address, variable = sys.argv[1:]
    settings = [f"planner.chat.api_key_env={variable}", "planner.chat.concurrency=1"]
    settings += ["planner.chat.cache=" + str(Path(folder) / "cache"), "shard_size=4"]
    Trial(Path(folder), num=4, overrides=tuple(settings)).run(address)
