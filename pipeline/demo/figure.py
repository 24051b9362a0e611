"""`python -m pipeline.demo.figure RUN ID --output FILE`: one pair of a run as a figure.

Draws the original and its near miss side by side, each with the answer that is true of it and the
differing words marked. `pair.webp` beside this file is the figure of the README, made with

    python -m pipeline.demo --output scenes --scenes 17 --side 800
    python -m pipeline run count-cpu --local --input scenes/seeds.jsonl --output pairs
    python -m pipeline.demo.figure pairs scene-0-00016 --output pipeline/demo/pair.webp
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps

from schemas.files import Folder
from schemas.outcomes import pair_from_row
from schemas.records import Image, Pair, Span
from schemas.shards import read_pairs

_LOG = logging.getLogger("nearmiss.figure")

_SIDE = 560
"""Longest side of each image, in pixels; the figure is a little more than twice as wide."""
_GAP, _PAD, _LINE = 24, 16, 36
_QUALITY = 82
_PAPER, _INK, _SOFT = (255, 255, 255), (28, 28, 26), (95, 94, 89)
_MARKS = (((213, 239, 233), (11, 107, 96)), ((253, 229, 211), (168, 67, 10)))
"""Background and ink of differing words: of the true answer, and of the near miss's."""


def draw_pair(pair: Pair) -> PIL.Image.Image:
    """The figure; ValueError if the near miss has no answer of its own."""
    if pair.counterfactual is None:
        raise ValueError(f"pair {pair.pair_id} has no answer for its near miss; choose another")
    sides = (
        ("original", pair.chosen_image, pair.chosen, pair.chosen_spans),
        ("near miss", pair.rejected_image, pair.counterfactual, pair.counterfactual_spans),
    )
    images = [_fitted(image) for _, image, _, _ in sides]
    width, height = 2 * _SIDE + _GAP, max(image.height for image in images)
    texts = [_wrapped(text, _SIDE) for _, _, text, _ in sides]
    num_lines = max(map(len, texts))
    top = _LINE + _PAD
    figure = PIL.Image.new(
        "RGB", (width, top + height + 2 * _PAD + _LINE * (1 + num_lines)), _PAPER
    )
    pen = PIL.ImageDraw.Draw(figure)
    pen.text((0, 0), pair.prompt, _INK, _font(26))
    for index, (title, _, text, spans) in enumerate(sides):
        x = index * (_SIDE + _GAP)
        figure.paste(images[index], (x, top))
        y = top + height + _PAD
        pen.text((x, y), title, _SOFT, _font(21))
        for row, line in enumerate(texts[index], start=1):
            place = (x, y + _LINE * row)
            _draw_line(pen, place, _pieces(text, line, spans), _MARKS[index])
    return PIL.ImageOps.expand(figure, _PAD, _PAPER)


def _fitted(image: Image) -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(image.bytes)) as opened:
        fitted = opened.convert("RGB")
    fitted.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
    return fitted


def _font(size: int) -> PIL.ImageFont.FreeTypeFont:
    font = PIL.ImageFont.load_default(size)
    assert isinstance(font, PIL.ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _wrapped(text: str, width: int) -> list[tuple[int, int]]:
    """Start and end of each line of the text."""
    lines, start, end = [], 0, 0
    for at in [*(i for i, char in enumerate(text) if char == " "), len(text)]:
        if _font(24).getlength(text[start:at]) > width and end > start:
            lines.append((start, end))
            start = end + 1
        end = at
    return [*lines, (start, len(text))]


def _draw_line(
    pen: PIL.ImageDraw.ImageDraw,
    place: tuple[int, int],
    pieces: Iterable[tuple[str, bool]],
    colors: tuple[tuple[int, int, int], tuple[int, int, int]],
) -> None:
    font, (x, y) = _font(24), (float(place[0]), place[1])
    for piece, marked in pieces:
        advance = font.getlength(piece)
        if marked:
            pen.rounded_rectangle((x - 3, y - 2, x + advance + 3, y + 30), 5, colors[0])
        pen.text((x, y), piece, colors[1] if marked else _INK, font)
        x += advance


def _pieces(text: str, line: tuple[int, int], spans: Sequence[Span]) -> Iterator[tuple[str, bool]]:
    """The text of a line, cut at the spans; and whether each piece is one."""
    at, end = line
    for start, stop in spans:
        if at <= start < stop <= end:
            yield text[at:start], False
            yield text[start:stop], True
            at = stop
    yield text[at:end], False


def _pair(run: str, name: str) -> Pair:
    for table in read_pairs(Folder.at(run)):
        for row in table.to_pylist():
            if name in (row["pair_id"], row["seed_id"]):
                return pair_from_row(row)
    raise ValueError(f"{run} has no pair with pair_id or seed_id {name!r}; see its report.html")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 where the figure cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.figure", description=__doc__)
    parser.add_argument("run", help="run directory")
    parser.add_argument("id", help="pair_id, or the seed_id of its first pair")
    parser.add_argument("--output", type=Path, required=True, help="image file to write")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        draw_pair(_pair(options.run, options.id)).save(options.output, quality=_QUALITY)
    except (ValueError, OSError) as error:
        _LOG.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
