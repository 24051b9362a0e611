"""Images decoded one micro-batch ahead: the same rows, sooner."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.engine.work import make_groups
from pipeline.recipes.build import load_recipe
from pipeline.recipes.chains import make_chains
from pipeline.sources import open_source, write_manifest
from schemas.files import Folder
from schemas.records import Drop, Image, Seed
from stages import pixels
from stages.base import Stage
from stages.pixels import DecodedImages, decode, encode_jpeg
from tests.workers.test_worker import rows, work
from workers.chain import Chain, Link
from workers.guard import InFlightLog
from workers.worker import Assignment, Group, ShardState, ShardWorker


def random_images(num: int, side: int = 64) -> list[Image]:
    draw = np.random.default_rng(3)
    return [encode_jpeg(draw.integers(0, 255, (side, side, 3), np.uint8)) for _ in range(num)]


@pytest.fixture
def reads(monkeypatch) -> list[tuple[bytes, str]]:
    """Every image that is really decoded, and the thread that does it."""
    seen, plain = [], pixels._read

    def read(data: bytes) -> pixels.Pixels:
        seen.append((data, threading.current_thread().name))
        time.sleep(0.01)
        return plain(data)

    monkeypatch.setattr(pixels, "_read", read)
    return seen


def test_a_image_is_decoded_once_however_many_threads_ask(reads):
    images, held = random_images(6), DecodedImages()
    found: list[list[pixels.Pixels]] = []
    threads = [
        threading.Thread(target=lambda: found.append([held.decode(i) for i in images]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert Counter(data for data, _ in reads) == {image.bytes: 1 for image in images}
    assert all(a is b for each in found for a, b in zip(each, found[0], strict=True))
    assert not found[0][0].flags.writeable


def test_the_oldest_is_let_go_and_what_is_asked_for_stays(reads):
    images, held = random_images(40, side=8), DecodedImages(32)
    with held.in_use():
        for image in images:
            decode(image)
            decode(images[0])
        assert len(held) == 32
        assert len(reads) == 40
        decode(images[0])
        assert len(reads) == 40
        decode(images[1])
        assert len(reads) == 41
    decode(images[0])
    assert len(reads) == 42, "nothing is held outside"


def test_an_image_that_cannot_be_read_raises_every_time(reads):
    held = DecodedImages()
    for _ in range(2):
        with pytest.raises(OSError, match="cannot identify"):
            held.decode(Image(b"no image"))
    assert len(reads) == 2
    assert len(held) == 0


@dataclass(frozen=True)
class Looker(Stage[Seed, Seed]):
    """Looks at every image, then waits as a driver of a GPU does: until so many are read ahead."""

    consumes: ClassVar[type] = Seed
    produces: ClassVar[type] = Seed

    ahead: Callable[[], int] = field(default=lambda: 12, compare=False)
    """How many images the other thread has read."""
    looked: list[Seed] = field(default_factory=list, init=False, compare=False)

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Seed] | Drop]:
        for seed in batch:
            decode(seed.image)
        self.looked.extend(batch)
        while self.ahead() < min(12, len(self.looked)):
            time.sleep(0.01)
        return [[seed] for seed in batch]


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    """Sixteen scenes in one shard."""
    write_scenes(tmp_path / "input", 16, side=96)
    folder = Folder.at(str(tmp_path / "run"))
    write_manifest(open_source(str(tmp_path / "input" / "seeds.jsonl")), folder, 0, 16, None)
    return folder


def groups(*, ahead: bool, recipe: str = "removal-cpu", looker: Stage | None = None) -> list[Group]:
    (whole,) = make_chains(load_recipe(recipe), 0)
    if looker is not None:
        links = (whole.links[0], Link("looker", looker), *whole.links[1:])
        whole = Chain(whole.origin, links)
    specs = [
        GroupPlacement(stages=["loader"], micro_batch=16),
        GroupPlacement(micro_batch=4, decode_ahead=ahead),
    ]
    return [group for group, _ in make_groups([whole], Placement(groups=specs))]


@pytest.mark.parametrize("recipe", ["removal-cpu", "crop"])
def test_rows_are_the_same(run, recipe):
    work(run, *groups(ahead=False, recipe=recipe))
    before = rows(run)
    work(run, *groups(ahead=True, recipe=recipe))
    assert rows(run) == before
    assert any(row["status"] == "pair" for row in before)


def second_group(run: Folder, group: Group, state: ShardState) -> None:
    worker = ShardWorker(Assignment(run, "a", {}), group)
    worker.process(state)
    worker.close()


def loaded(run: Folder, first: Group, second: Group) -> ShardState:
    """The shard as the second group gets it."""
    worker = ShardWorker(Assignment(run, "a", {}), first)
    state = worker.first(0)
    worker.process(state)
    return ShardState.from_row(state.to_row(first.chains), second.chains)


def test_all_but_the_first_micro_batch_are_decoded_by_the_other_thread(run, reads):
    def ahead() -> int:
        return sum(name.startswith("ahead") and data in mine for data, name in reads)

    first, second = groups(ahead=True, recipe="crop", looker=Looker(ahead))
    state = loaded(run, first, second)
    mine = {record.image.bytes for (records,) in [state.live] for record in records}
    reads.clear()
    second_group(run, second, state)
    by_thread = Counter(name.partition("_")[0] for data, name in reads if data in mine)
    assert by_thread == {"MainThread": 4, "ahead": 12}
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_nothing_is_decoded_ahead_over_a_shard_on_which_a_process_died(run, reads):
    first, second = groups(ahead=True, recipe="crop", looker=Looker())
    state = loaded(run, first, second)
    in_flight = InFlightLog(run, "00000-1", "a")
    in_flight.start("crop", state.seed_ids[:2])
    reads.clear()
    second_group(run, second, state)
    assert not [name for _, name in reads if name.startswith("ahead")]


def test_an_image_that_cannot_be_decoded_ahead_is_the_rows_own_trouble(run):
    first, second = groups(ahead=True, recipe="crop", looker=Looker())
    state = loaded(run, first, second)
    (records,) = state.live
    records[9] = replace(records[9], image=Image(b"broken"))
    second_group(run, second, state)
    bad = [row for row in rows(run) if row["status"] == "drop"]
    assert [(row["seed_id"], row["reason"]) for row in bad] == [(records[9].seed_id, "model_error")]
