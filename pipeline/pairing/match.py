"""The pass before a retrieval run: vectors of all images, then matches, stored in the manifest.

    RUN/vectors/vectors-00000.parquet    one a shard, made by the same engine as the parts
    RUN/seeds/                           written again, every seed with its given negative
    RUN/pairing.json                     how many seeds got one; written when the pass is done

Resumable: files that exist are not made again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.choice import run_shards
from pipeline.engine.on_ray import start_ray
from pipeline.engine.placement import Placement
from pipeline.engine.work import Work
from pipeline.errors import UsageError
from pipeline.pairing.neighbours import (
    NONE,
    QUERY_ROWS,
    Match,
    Neighbours,
    Window,
    choose,
    nearest,
)
from pipeline.recipes.pairing import Pairing
from schemas.files import Folder
from schemas.holdout import FOLD, TRAIN, VALIDATION
from schemas.ids import content_id
from schemas.manifest import read_seeds, write_seeds
from schemas.outcomes import Origin
from schemas.records import SCHEMA_VERSION, GivenNegativeRef, ImageRef, Kind, SeedRef
from schemas.vectors import read_vectors, vectors_name
from stages.decide.vectorizer import Vectorizer
from stages.read.loader import Loader
from workers.chain import Chain, Link
from workers.counters import Counters
from workers.worker import Assignment

log = logging.getLogger(__name__)

PAIRING_FILE = "pairing.json"


@dataclass(frozen=True)
class PairingRequest:
    """What to pair, and how."""

    run: Folder
    """The run directory, with its manifest."""
    num_shards: int
    """Shards of the manifest."""
    pairing: Pairing
    """The recipe's settings."""
    loader: Loader
    """The recipe's loader; the vectors are of the images that it returns."""
    run_seed: int
    """Decides which images are set aside."""
    placement: Placement
    """The embedder runs in the group that has the stage `embedder`."""
    attempt: str
    """Identity of the driver process."""
    local: bool
    """Without Ray."""


@dataclass(frozen=True)
class _Images:
    """The distinct images of the input."""

    vectors: NDArray[np.float32]
    """[N, D] rows of unit length."""
    ids: list[str]
    """N image ids."""
    of_seed: Mapping[str, int]
    """Image number of each seed that has one."""


def pair_images(request: PairingRequest) -> None:
    """Give every seed of the manifest a similar image, if it has one. Safe to repeat.

    Raises the error that stopped the vectors, and UsageError for an input with only one image.
    """
    run = request.run
    if run.exists(PAIRING_FILE):
        return
    _make_vectors(request)
    images = _images(run, request.num_shards)
    if len(images.ids) < 2:
        raise UsageError(
            f"the input has {len(images.ids)} readable images; pairing them needs at least 2"
        )
    folds = _folds(images.ids, request)
    neighbours = _neighbours(images.vectors, folds, request)
    seeds = _seed_ids(run, request.num_shards)
    placed = [seed for seed in seeds if seed in images.of_seed]
    matches = choose(
        [images.of_seed[seed] for seed in placed], lambda image: _listed(neighbours, image)
    )
    found = {
        seed: (placed[match.seed], match)
        for seed, match in zip(placed, matches, strict=True)
        if match is not None
    }
    fold_of = {seed: VALIDATION if folds[images.of_seed[seed]] else TRAIN for seed in placed}
    _write_manifest(run, request.num_shards, found, fold_of)
    facts = {"images": len(images.ids), "seeds": len(seeds), "matched": len(found)}
    run.write_json(PAIRING_FILE, facts)
    log.info(
        "%d of %d seeds have a similar image among %d", len(found), len(seeds), len(images.ids)
    )


def _make_vectors(request: PairingRequest) -> None:
    run = request.run
    missing = [s for s in range(request.num_shards) if not run.exists(vectors_name(s))]
    if not missing:
        return
    log.info("vectors of %d of %d shards to make", len(missing), request.num_shards)
    origin = Origin("pairing", "", request.run_seed, "", SCHEMA_VERSION, ())
    chain = Chain(
        origin,
        (
            Link("loader", replace(request.loader, given_negative=False)),
            Link("embedder", Vectorizer(request.pairing.embedder)),
        ),
    )
    assignment = Assignment(run, request.attempt, {}, vectors=True)
    work = Work(assignment, (chain,), request.placement, missing)
    run_shards(work, _Count(len(missing)), local=request.local)


class _Count:
    """Logs from time to time how many shards have their vectors."""

    def __init__(self, total: int) -> None:
        self._done, self._total = 0, total

    def live(self, counts: Mapping[str, Counters]) -> None:
        """Ignored: only whole shards are counted."""

    def done(self, shard: int, counters: Counters) -> None:
        """Count a shard."""
        del shard, counters
        self._done += 1
        if self._done == self._total or self._done % max(1, self._total // 20) == 0:
            log.info("vectors of %d of %d shards", self._done, self._total)


def _images(run: Folder, num_shards: int) -> _Images:
    number: dict[str, int] = {}
    of_seed: dict[str, int] = {}
    rows: list[NDArray[np.float32]] = []
    for block in read_vectors(run, num_shards):
        new = []
        for i, (seed, image) in enumerate(zip(block.seed_ids, block.image_ids, strict=True)):
            if image not in number:
                number[image] = len(number)
                new.append(i)
            of_seed[seed] = number[image]
        if new:
            rows.append(block.matrix[new])
    vectors = np.concatenate(rows) if rows else np.zeros((0, 1), np.float32)
    # Rounded to 16 bits, they are no longer of unit length.
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return _Images(vectors, list(number), of_seed)


def _folds(image_ids: Sequence[str], request: PairingRequest) -> NDArray[np.int8]:
    """1 for each image that is set aside; decided by its content and the run's seed."""
    share = request.pairing.validation
    draws = [int(content_id("fold", request.run_seed, i)[:13], 16) / 16**13 for i in image_ids]
    return np.array([draw < share for draw in draws], np.int8)


def _neighbours(
    vectors: NDArray[np.float32], folds: NDArray[np.int8], request: PairingRequest
) -> Neighbours:
    """The nearest images of every image, block by block: here, or as tasks on the cluster."""
    window = Window(request.pairing.min_similarity, request.pairing.max_similarity)
    count = request.pairing.neighbours
    blocks = [
        (start, min(start + QUERY_ROWS, len(vectors)))
        for start in range(0, len(vectors), QUERY_ROWS)
    ]
    if request.local or len(blocks) == 1:
        parts = [nearest(vectors, folds, block, count, window) for block in blocks]
    else:
        parts = _on_ray(vectors, folds, blocks, count, window)
    return Neighbours(
        np.concatenate([part.indices for part in parts]),
        np.concatenate([part.similarities for part in parts]),
    )


def _on_ray(
    vectors: NDArray[np.float32],
    folds: NDArray[np.int8],
    blocks: Sequence[tuple[int, int]],
    count: int,
    window: Window,
) -> list[Neighbours]:
    import ray  # noqa: PLC0415  # only where a run uses it

    ours = not ray.is_initialized()
    if ours:
        start_ray()
    try:
        # Once per machine, in shared memory.
        shared, shared_folds = ray.put(vectors), ray.put(folds)
        task = ray.remote(num_cpus=1)(nearest)
        waiting: list[Any] = [
            task.remote(shared, shared_folds, block, count, window) for block in blocks
        ]
        parts: list[Neighbours] = ray.get(waiting)
        return parts
    finally:
        if ours:
            ray.shutdown()


def _listed(neighbours: Neighbours, image: int) -> Iterable[tuple[int, float]]:
    for other, cosine in zip(
        neighbours.indices[image].tolist(), neighbours.similarities[image].tolist(), strict=True
    ):
        if other == NONE:
            return
        yield other, cosine


def _seed_ids(run: Folder, num_shards: int) -> list[str]:
    return [ref.seed_id for shard in range(num_shards) for ref in read_seeds(run, shard)]


def _write_manifest(
    run: Folder,
    num_shards: int,
    found: Mapping[str, tuple[str, Match]],
    fold_of: Mapping[str, str],
) -> None:
    """Write the manifest again, every matched seed with its given negative."""
    wanted = {given for given, _ in found.values()}
    image_of: dict[str, ImageRef] = {}
    for shard in range(num_shards):
        for ref in read_seeds(run, shard):
            if ref.seed_id in wanted:
                image_of[ref.seed_id] = ref.image
    for shard in range(num_shards):
        refs = [_matched(ref, found, fold_of, image_of) for ref in read_seeds(run, shard)]
        write_seeds(run, shard, refs)


def _matched(
    ref: SeedRef,
    found: Mapping[str, tuple[str, Match]],
    fold_of: Mapping[str, str],
    image_of: Mapping[str, ImageRef],
) -> SeedRef:
    if ref.seed_id not in found:
        return replace(ref, given_negative=None)
    given_seed, match = found[ref.seed_id]
    return replace(
        ref,
        given_negative=GivenNegativeRef(
            image=image_of[given_seed],
            answer=None,
            kind=Kind.SCENE,
            params={
                "given_seed": given_seed,
                "similarity": f"{match.similarity:.4f}",
                FOLD: fold_of[ref.seed_id],
            },
        ),
    )
