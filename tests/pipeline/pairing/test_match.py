"""Pairs of similar images: exact neighbours, no pair twice, folds kept apart, resumable."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import Placement
from pipeline.pairing import PAIRING_FILE, PairingRequest, pair_images
from pipeline.pairing import neighbours as n
from pipeline.pairing.neighbours import NONE, Match, Window, choose, nearest
from pipeline.recipes.build import load_recipe
from pipeline.recipes.pairing import Pairing
from pipeline.sources import open_source, write_manifest
from schemas.files import Folder
from schemas.manifest import read_seeds
from schemas.vectors import Vectored, read_vectors, vectors_name, write_vectors
from stages.backends.embed.descriptors import ColorLayout
from stages.read.loader import Loader

WINDOW = Window(0.2, 0.95)


def unit(rows: int, length: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, length)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@settings(max_examples=40)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(1, 7), st.integers(0, 99))
def test_blocks_find_what_a_plain_sort_finds(rows, count, block, seed):
    vectors, folds = unit(rows, 5, seed), np.arange(rows, dtype=np.int8) % 2
    wanted = []
    for i in range(rows):
        cosines = [(float(vectors[i] @ vectors[j]), j) for j in range(rows)
                   if j != i and folds[i] == folds[j]]  # fmt: skip
        inside = [(c, j) for c, j in cosines if WINDOW.low <= c <= WINDOW.high]
        best = [j for _, j in sorted(inside, key=lambda x: -x[0])[:count]]
        wanted.append(best + [NONE] * (count - len(best)))
    before = n.BASE_ROWS
    n.BASE_ROWS = block
    try:
        starts = range(0, rows, block)
        parts = [nearest(vectors, folds, (s, min(s + block, rows)), count, WINDOW) for s in starts]
    finally:
        n.BASE_ROWS = before
    assert np.concatenate([p.indices for p in parts]).tolist() == wanted


def test_no_two_images_are_paired_twice():
    # Seeds 0 and 1 are about image 0, seed 2 about image 1, seed 3 about image 2.
    near = {0: [(1, 0.9), (2, 0.8)], 1: [(0, 0.9), (2, 0.7)], 2: [(0, 0.8), (1, 0.7)]}
    matches = choose([0, 0, 1, 2], lambda image: near[image])
    # Image 1's first choice (0) is taken from the other side; image 2 finds both taken.
    assert matches == [Match(2, 0.9), Match(3, 0.8), Match(3, 0.7), None]


def test_vectors_survive_their_file(tmp_path):
    run = Folder.at(str(tmp_path))
    vectors = unit(3, 4, 0)
    rows = [Vectored(f"s{i}", f"i{i}", tuple(v.tolist())) for i, v in enumerate(vectors)]
    write_vectors(run, 0, rows)
    write_vectors(run, 1, [])
    first, second = read_vectors(run, 2)
    assert first.seed_ids == ["s0", "s1", "s2"]
    assert np.abs(first.matrix - vectors).max() < 1e-3
    assert second.seed_ids == []


def prepared(folder: Path, num: int, **settings: float) -> PairingRequest:
    """A manifest of scenes, twelve to a shard, and two seeds about the first image."""
    write_scenes(folder / "input", num, side=96)
    rows = folder / "input" / "seeds.jsonl"
    first = json.loads(rows.read_text().splitlines()[0])
    rows.write_text(rows.read_text() + json.dumps({**first, "id": "again"}) + "\n")
    run = Folder.at(str(folder / "run"))
    manifest = write_manifest(open_source(str(rows)), run, 0, 12)
    return PairingRequest(
        run=run, num_shards=manifest.num_shards,
        pairing=Pairing(ColorLayout(), **{"min_similarity": 0.3, "neighbours": 16, **settings}),
        loader=Loader(), run_seed=0, placement=Placement(), attempt="a", local=True,
    )  # fmt: skip


def test_every_pair_is_similar_not_the_same_and_unique(tmp_path):
    request = prepared(tmp_path, 30, validation=0.4)
    pair_images(request)
    refs = [ref for s in range(request.num_shards) for ref in read_seeds(request.run, s)]
    image = {ref.seed_id: ref.image.path for ref in refs}
    matched = [ref for ref in refs if ref.given_negative is not None]
    facts = request.run.read_json(PAIRING_FILE)
    assert facts == {"images": 30, "seeds": 31, "matched": len(matched)}
    assert len(matched) > 20
    pairs = Counter(frozenset((r.image.path, r.given_negative.image.path)) for r in matched)
    assert set(pairs.values()) == {1}
    sides: dict[str, set[str]] = {"train": set(), "validation": set()}
    for ref in matched:
        params = ref.given_negative.params
        assert 0.3 <= float(params["similarity"]) <= 0.95
        assert image[params["given_seed"]] == ref.given_negative.image.path != ref.image.path
        sides[params["fold"]] |= {ref.image.path, ref.given_negative.image.path}
    assert all(sides.values())
    assert all(not a & b for a, b in combinations(sides.values(), 2))


def test_a_match_that_was_cut_off_goes_on_with_what_is_there(tmp_path):
    request = prepared(tmp_path, 14)
    pair_images(request)
    manifest = [read_seeds(request.run, s) for s in range(request.num_shards)]
    request.run.delete(PAIRING_FILE)
    request.run.delete(vectors_name(1))
    kept = (tmp_path / "run" / vectors_name(0)).stat().st_mtime_ns
    pair_images(request)
    assert (tmp_path / "run" / vectors_name(0)).stat().st_mtime_ns == kept
    assert [read_seeds(request.run, s) for s in range(request.num_shards)] == manifest


def test_settings_are_checked_and_part_of_the_digest():
    with pytest.raises(ValueError, match="no pair can meet both"):
        Pairing(ColorLayout(), min_similarity=0.9, max_similarity=0.5)
    one = load_recipe("retrieval")
    other = load_recipe("retrieval", ["pairing.min_similarity=0.5"])
    assert one.pairing is not None
    assert other.pairing is not None
    assert other.pairing.min_similarity == 0.5
    assert one.digest != other.digest
    assert [r.digest for r in one.recipes] == [r.digest for r in other.recipes]
