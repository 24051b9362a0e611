"""Pairs of all sorts, as a run leaves them: sizes that differ, texts that are not ASCII."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from schemas.arrow import to_table
from schemas.files import Folder
from schemas.geometry import Box
from schemas.records import (
    SCHEMA_VERSION,
    Contrast,
    Image,
    Kind,
    Pair,
    Provenance,
    Region,
    Span,
    Verdict,
)
from schemas.shards import DATA_SCHEMA, DataWriter
from trainer.data.rows import Row

SIZES = ((48, 40), (40, 64), (70, 36))
"""Width and height: wide, tall, and all of other numbers of tiles and patches."""


def photo(key: int, size: tuple[int, int] = SIZES[0], path: str | None = None) -> Image:
    """Noise that no two keys share."""
    generator = np.random.Generator(np.random.PCG64(key))
    small = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    sink = io.BytesIO()
    PIL.Image.fromarray(small).resize(size, PIL.Image.Resampling.BICUBIC).save(sink, "PNG")
    return Image(sink.getvalue(), path)


def a_pair(number: int, **changes: object) -> Pair:
    """A pair; three sizes of images and three lengths of answers take turns."""
    size = SIZES[number % 3]
    more = (" It lies there.", "", " Ça va, naïve 猫?")[number % 3]
    chosen = f"The ring is purple.{more}"
    fields: dict[str, object] = {
        "pair_id": f"pair-{number:04d}",
        "seed_id": f"seed-{number:04d}",
        "chosen_image": photo(2 * number, size, f"photo-{number}.jpg"),
        "rejected_image": photo(2 * number + 1, size),
        "prompt": ("What colour is the ring?", "Describe the image.")[number % 2],
        "chosen": chosen,
        "rejected": "There are two yellow rings on the left side.",
        "counterfactual": f"The ring is red.{more}",
        "chosen_spans": (Span(12, 18),),
        "counterfactual_spans": (Span(12, 15),),
        "rejected_spans": (Span(0, 44),),
        "recipe": "recolor-cpu",
        "contrast": Contrast(Kind.ATTRIBUTE, "purple ring", "red ring", "recolor the ring red"),
        "regions": (Region("purple ring", Box(1, 1, 9, 9)),),
        "scores": {"appearance": 0.9},
        "verdict": Verdict(accepted=True, verifier="locality", detail=""),
        "provenance": Provenance("d" * 32, 7, SCHEMA_VERSION, "0.1.0", (), {}),
        "source": "test",
        "license": None,
    }
    return Pair(**fields | changes)  # type: ignore[arg-type]


def a_row(number: int, **changes: object) -> Row:
    """The same as the trainer reads it."""
    pair = a_pair(number, **changes)
    return Row(**{name: getattr(pair, name) for name in Row.__slots__})


def save(folder: Path, pairs: Sequence[Pair], *, shard_bytes: int = 10**6) -> str:
    """A finished run, as far as the trainer reads one; few bytes mean small row groups."""
    writer = DataWriter(Folder.at(str(folder)), "test", shard_bytes=shard_bytes)
    writer.add(to_table(pairs, Pair).cast(DATA_SCHEMA))
    writer.finish()
    return str(folder)
