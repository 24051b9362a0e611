"""One pair, or all outcomes of one seed, as text for a terminal. Changes nothing in the run."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from pipeline.report.facts import RunFacts, slack
from pipeline.report.parts import Address, lines, rows, shards_of
from pipeline.report.words import explain, safe, segments
from schemas.files import Folder
from schemas.geometry import Mask
from schemas.ids import content_id
from schemas.outcomes import PAIR

_WIDTH = 96
_ANSWER_CHARS = 20_000
"""Longest stretch of an answer that is printed."""
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png", b"RIF": ".webp"}


def show(
    run_dir: str,
    pair_id: str,
    *,
    facts: RunFacts | None = None,
    images_to: str | None = None,
) -> str:
    """What is known of a pair, or of every outcome of a seed.

    `pair_id` is a pair id, a seed id, or a beginning of one that no other id shares. Differing
    words are marked [[so]]. Scores are held against the limits in `facts`. With `images_to` the
    images are written into that folder, and their paths are named in the text. ValueError if there
    is no such id, if several begin so, or if the folder cannot be written.
    """
    run = Folder.at(run_dir)
    wanted = _find(run, pair_id)
    blocks, seed_id = [], ""
    for _, row in rows(run, wanted):
        seed_id = _line(row["seed_id"])
        block = list(_describe(row, facts))
        if images_to is not None:
            block += ["", *_save(row, Path(images_to))]
        blocks.append("\n".join(block))
    head = f"{len(blocks)} outcomes of seed {seed_id}\n\n" if len(blocks) > 1 else ""
    return head + ("\n\n" + "-" * _WIDTH + "\n\n").join(blocks)


def _find(run: Folder, wanted: str) -> list[Address]:
    """Addresses of the rows of one pair or one seed."""
    if not wanted:
        raise ValueError("no id given; name a pair id, a seed id, or the beginning of one")
    exact: list[Address] = []
    begun: dict[tuple[str, str], list[Address]] = {}
    for line in lines(run, shards_of(run)):
        if wanted in (line.pair_id, line.seed_id):
            exact.append(line.at)
        for what, found in (("pair", line.pair_id), ("seed", line.seed_id)):
            if found.startswith(wanted):
                begun.setdefault((what, found), []).append(line.at)
    if exact:
        return exact
    if not begun:
        raise ValueError(f"no pair or seed of {run.url} has an id that begins with {wanted!r}")
    if len(begun) > 1:
        num_pairs = sum(what == "pair" for what, _ in begun)
        raise ValueError(
            f"{wanted!r} is the beginning of {num_pairs:,} pair ids and "
            f"{len(begun) - num_pairs:,} seed ids; give more of it"
        )
    return next(iter(begun.values()))


def _describe(row: Mapping[str, Any], facts: RunFacts | None) -> Iterator[str]:
    if row["status"] == PAIR:
        yield f"Pair {row['pair_id']}"
    else:
        yield f"Drop: {row['reason']} at {row['stage']}"
        yield from _wrapped(explain(row["reason"]))
        if row["detail"]:
            yield from _wrapped(row["detail"])
        if row["evidence"]:
            yield from ("", "What was said", *_wrapped(row["evidence"]), "")
        if row["pair_id"]:
            yield f"  candidate  {row['pair_id']}"
    yield f"  recipe     {row['recipe']}"
    yield f"  seed       {_line(row['seed_id'])}"
    yield f"  source     {_line(row['source'] or 'not stated')}"
    yield f"  licence    {_line(row['license'] or 'not stated')}"
    yield from _images(row)
    yield from _contrast(row["contrast"])
    for title, text, spans in (
        ("Prompt", row["prompt"], None),
        ("Chosen (true of the original)", row["chosen"], row["chosen_spans"]),
        (
            "Counterfactual (true of the near miss)",
            row["counterfactual"],
            row["counterfactual_spans"],
        ),
        (
            "Rejected (the ordinary wrong answer)",
            row["rejected"],
            row.get("rejected_spans"),
        ),
    ):
        if text is not None:
            yield from ("", title, *_wrapped(_marked(text, spans or ())))
    yield from _regions(row)
    yield from _scores(row, facts)
    if row["verdict"]:
        verdict = row["verdict"]
        yield from ("", "Verdict")
        said = "accepted" if verdict["accepted"] else "refused"
        yield from _wrapped(f"{said} by {verdict['verifier']}: {verdict['detail']}")
    yield from _provenance(row["provenance"])


def _images(row: Mapping[str, Any]) -> Iterator[str]:
    for title, name in (("original ", "chosen_image"), ("near miss", "rejected_image")):
        image = row[name]
        if image and image["bytes"]:
            path = f", from {_line(image['path'])}" if image["path"] else ""
            yield f"  {title}  {_size(image['bytes'])}, {len(image['bytes']):,} bytes{path}"


def _size(data: bytes) -> str:
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return f"{image.format} {image.width} x {image.height}"
    # A dropped row may hold anything.
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return "cannot be decoded"


def _contrast(contrast: Mapping[str, Any] | None) -> Iterator[str]:
    if contrast:
        yield from ("", f"Contrast: {contrast['kind']}")
        yield from _wrapped(contrast["instruction"] or "")
        yield from _wrapped(f"{contrast['target']} -> {contrast['replacement'] or '(gone)'}")


def _regions(row: Mapping[str, Any]) -> Iterator[str]:
    if not row["regions"]:
        return
    yield from ("", "Regions")
    for region in row["regions"]:
        box = ", ".join(f"{round(value, 1):g}" for value in region["box"] or ())
        text = f"{region['label']}: box {box}"
        if region["mask"]:
            mask = region["mask"]
            runs = Mask(mask["height"], mask["width"], tuple(mask["counts"]))
            share = 100 * runs.area / max(runs.height * runs.width, 1)
            text += f"; mask {runs.area:,} pixels, {share:.1f} % of the image"
        yield from _wrapped(text)


def _scores(row: Mapping[str, Any], facts: RunFacts | None) -> Iterator[str]:
    if not row["scores"]:
        return
    kind = (row["contrast"] or {}).get("kind")
    limits = facts.limits(row["recipe"], kind) if facts else {}
    yield from ("", "Scores")
    for score in sorted(row["scores"], key=lambda s: str(s["name"])):
        name, value = score["name"], score["value"]
        text = f"  {name:<20} {'unknown' if value is None else f'{value:.5g}':>9}"
        limit = limits.get(name)
        if limit and value is not None:
            word = "passes" if slack(limit, value) >= 0 else "fails"
            text += f"   {word} {limit[0]} {limit[1]:.5g}"
        yield text


def _provenance(provenance: Mapping[str, Any] | None) -> Iterator[str]:
    if not provenance:
        return
    yield from ("", "Made by")
    for number, step in enumerate(provenance["steps"] or (), start=1):
        yield from _wrapped(f"{number}. {step['stage']} {step['settings']}")
    for param in provenance["params"] or ():
        yield from _wrapped(f"drawn: {param['name']} = {param['value']}")
    yield (
        f"  recipe {provenance['recipe_digest']}, seed {provenance['run_seed']}, "
        f"code {provenance['code_version']}, schema {provenance['schema_version']}"
    )


def _marked(text: str, spans: Sequence[Sequence[int]]) -> str:
    return "".join(
        f"[[{s.text}]]" if s.marked else s.text for s in segments(text, spans, _ANSWER_CHARS)
    )


def _line(text: str) -> str:
    """A text on one line, harmless to a terminal."""
    return safe(" ".join(str(text).split()))


def _wrapped(text: str) -> list[str]:
    """The text indented and wrapped, its own line breaks kept."""
    wrapped: list[str] = []
    for paragraph in safe(text).splitlines() or [""]:
        wrapped += textwrap.wrap(
            paragraph, _WIDTH, initial_indent="  ", subsequent_indent="  "
        ) or [""]
    return wrapped


def _save(row: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """Write the row's images; one line for each, with its path."""
    # A seed id is free text of the input, so it is no file name.
    stem = row["pair_id"] or (
        re.sub(r"[^A-Za-z0-9_-]", "_", row["seed_id"])[:40] + "-" + content_id(row["seed_id"])[:8]
    )
    for title, name in (("original", "chosen_image"), ("near-miss", "rejected_image")):
        data = (row[name] or {}).get("bytes")
        if not data:
            continue
        path = folder / f"{stem}-{title}{_SUFFIXES.get(data[:3], '.bin')}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error.strerror}") from error
        yield f"  wrote {path}"
