"""From one input row to one `SeedRef`: fields, ids, and what is wrong with the row itself."""

from __future__ import annotations

from typing import Any

from pipeline.sources.cells import (
    UNSTORABLE,
    cell_of,
    image_cell,
    label_text,
    regions,
    turn,
    without_placeholders,
)
from pipeline.sources.columns import Mapped
from pipeline.sources.errors import shown
from pipeline.sources.formats import PlacedRow
from schemas.ids import content_id
from schemas.records import Drop, GivenNegativeRef, Kind, Reason, Region, SeedRef

MAX_TEXT_CHARS = 20_000
"""Longer texts are damage, not answers: a whole file in one cell."""
KEPT_TEXT_CHARS = 500
"""What is kept of a text that is too long, for people to recognise it."""
MAX_ID_CHARS = 1_000


class _Texts:
    """Makes texts storable, and remembers the first thing wrong with any of them."""

    def __init__(self) -> None:
        self.defect: Drop | None = None

    def found(self, defect: Drop | None) -> None:
        if self.defect is None:
            self.defect = defect

    def storable(self, field: str, text: str) -> str:
        bad = UNSTORABLE.search(text)
        if bad:
            detail = f"{field} holds {shown(bad.group())} at character {bad.start()}"
            self.found(Drop(Reason.BAD_TEXT, detail))
            text = UNSTORABLE.sub("\ufffd", text)
        if len(text) > MAX_TEXT_CHARS:
            detail = f"{field} has {len(text)} characters; at most {MAX_TEXT_CHARS} are allowed"
            self.found(Drop(Reason.TEXT_TOO_LONG, detail))
            text = text[:KEPT_TEXT_CHARS]
        return text

    def optional(self, field: str, text: str | None) -> str | None:
        return None if text is None else self.storable(field, text)

    def region(self, index: int, region: Region) -> Region:
        return Region(
            self.storable(f"objects[{index}].label", region.label),
            region.box,
            region.mask,
            tuple(self.storable(f"objects[{index}].attributes", a) for a in region.attributes),
        )


def seed_of_row(row: PlacedRow, mapped: Mapped, image_root: str, run_seed: int) -> SeedRef:
    """The row as a `SeedRef`.

    What is wrong with a text or an image becomes the seed's defect. `SourceError` for what only a
    person can put right: a cell of the wrong type, an invalid id, an invalid box.
    """
    place, columns, texts = row.place, mapped.columns, _Texts()

    def cell(field: str) -> Any:
        value = cell_of(row.cells, columns.get(field))
        return mapped.defaults.get(field) if value is None else value

    # One column with the whole conversation: the first question and its answer.
    first = columns.get("prompt") == columns["chosen"]
    chosen = turn(place, "chosen", cell("chosen"), first=first) or ""
    rejected = turn(place, "rejected", cell("rejected"), first=False) or None
    prompt = turn(place, "prompt", cell("prompt"), first=first)
    if prompt is None and not isinstance(cell("chosen"), str | None):
        # TRL's implicit prompt: the answers carry the conversation before them.
        prompt = turn(place, "prompt", cell("chosen"), first=False)
    prompt = without_placeholders(prompt or "")
    image = image_cell(place, cell("image"), image_root)
    found = regions(place, cell("objects"))
    origin = label_text(place, "source", cell("source"))
    licence = label_text(place, "license", cell("license"))

    given_negative = _given_negative(row, mapped, image_root, texts)

    if not chosen.strip():
        detail = f"no answer in column {columns['chosen']}"
        texts.found(Drop(Reason.MISSING_ANSWER, detail))
    own_id = _own_id(row, columns.get("id"))
    if own_id is None:
        parts = (prompt, chosen, rejected or "", licence or "", *map(repr, found))
        if given_negative is not None:
            parts += (given_negative[0].answer or "", given_negative[1])
        own_id = content_id("row", *parts, image.identity)
    seed_id = texts.storable("id", own_id)
    if seed_id != own_id or len(seed_id) > MAX_ID_CHARS:
        detail = f"id has {len(own_id)} characters; at most {MAX_ID_CHARS} are allowed"
        texts.found(Drop(Reason.TEXT_TOO_LONG, detail))
        # A repaired id might be another row's.
        seed_id = content_id("unusable id", own_id)
    texts.found(image.defect)
    return SeedRef(
        seed_id=seed_id,
        run_seed=run_seed,
        image=image.ref,
        prompt=texts.storable("prompt", prompt),
        chosen=texts.storable("chosen", chosen),
        rejected=texts.optional("rejected", rejected),
        regions=tuple(texts.region(i, region) for i, region in enumerate(found)),
        source=texts.storable("source", f"{origin}: {place}" if origin else str(place)),
        license=texts.optional("license", licence),
        defect=texts.defect,
        given_negative=given_negative[0] if given_negative is not None else None,
    )


def _given_negative(
    row: PlacedRow, mapped: Mapped, image_root: str, texts: _Texts
) -> tuple[GivenNegativeRef, str] | None:
    """The other half of the pair, and what names its image; None if no column fills its image."""
    columns, place = mapped.columns, row.place
    if "counterfactual_image" not in columns:
        return None
    image = image_cell(place, cell_of(row.cells, columns["counterfactual_image"]), image_root)
    answer = turn(
        place, "counterfactual", cell_of(row.cells, columns.get("counterfactual")), first=False
    )
    named = cell_of(row.cells, columns.get("kind")) or mapped.defaults.get("kind")
    if named is not None and named not in set(Kind):
        raise place.error("kind", f"found {shown(named)}", ", ".join(Kind))
    ref = GivenNegativeRef(
        image.ref,
        texts.optional("counterfactual", answer or None),
        None if named is None else Kind(named),
        {},
    )
    identity = image.identity
    return ref, identity if isinstance(identity, str) else content_id(identity)


def _own_id(row: PlacedRow, column: str | None) -> str | None:
    """The row's own id as text; None where it has none."""
    value = cell_of(row.cells, column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise row.place.error("id", f"found {shown(value)}", "a text that is not empty, or an int")
    return str(value)
