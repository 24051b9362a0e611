"""One row of the page as the values that its template needs. Knows no HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.facts import RunFacts, limit_sign, slack
from pipeline.report.sampling import Sample, Stratum
from pipeline.report.survey import Survey
from pipeline.report.thumbnails import Thumbnail, outline, thumbnail
from pipeline.report.words import Segment, explain, segments, shorten

_ANSWER_CHARS = 900
"""Longest stretch of a text that a card shows; `show` has the whole."""
_NAME_CHARS = 160
_DETAIL_CHARS = 600


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer on a card."""

    role: str
    """Which column it is: "chosen", "counterfactual", "rejected"."""
    title: str
    """Its heading on the card."""
    segments: Sequence[Segment]
    """The text, differing words marked."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One score on a card; positions are percentages of the range it has in the recipe."""

    name: str
    value: str
    fill: float
    tick: float | None
    limit: str
    """ "≥ 0.5"; empty for a score without a limit."""
    passed: bool


@dataclass(frozen=True, slots=True)
class Card:
    """One shown row."""

    number: int
    """Counted from 1 over the page; for its anchors."""
    status: str
    reason: str
    explanation: str
    detail: str
    evidence: str
    """A model's reply, verbatim."""
    stage: str
    recipe: str
    kind: str
    strata: tuple[Stratum, ...]
    title: str
    """The contrast in words; empty for a row that left before it had one."""
    change: tuple[str, str] | None
    """What was replaced, and by what."""
    prompt: str
    original: Thumbnail | None
    near_miss: Thumbnail | None
    unreadable: bool
    """The row has an image that cannot be decoded."""
    outline: str
    """SVG path data in pixels of the thumbnails; empty for a change of the whole image."""
    answers: Sequence[Answer]
    bars: Sequence[Bar]
    pair_id: str
    seed_id: str
    source: str
    license: str

    @property
    def shape(self) -> str:
        """Wide or tall; wide pairs are stacked on narrow screens."""
        shown = self.original or self.near_miss
        return "wide" if shown and shown.width >= 1.15 * shown.height else "tall"


def make_card(
    number: int, sample: Sample, row: Mapping[str, Any], found: Survey, facts: RunFacts
) -> Card:
    """The card of a row, its images shrunk and its texts cut to what a page can hold."""
    line = sample.line
    contrast = row["contrast"] or {}
    original, near_miss = _thumbnail(row["chosen_image"]), _thumbnail(row["rejected_image"])
    shown = original or near_miss
    stored = [i for i in (row["chosen_image"], row["rejected_image"]) if i and i["bytes"]]
    instruction = contrast.get("instruction") or ""
    target, replacement = contrast.get("target"), contrast.get("replacement")
    return Card(
        number=number,
        status=line.status,
        reason=line.reason,
        explanation=explain(line.reason) if line.reason else "",
        detail=shorten((row["detail"] or "").strip(), _DETAIL_CHARS),
        evidence=shorten((row["evidence"] or "").strip(), _ANSWER_CHARS),
        stage=shorten(line.stage, _NAME_CHARS),
        recipe=line.recipe,
        kind=line.kind,
        strata=sample.strata,
        title=shorten(instruction, _NAME_CHARS),
        change=(shorten(target, _NAME_CHARS), shorten(replacement, _NAME_CHARS))
        if target and replacement
        else None,
        prompt=shorten(row["prompt"] or "", _ANSWER_CHARS),
        original=original,
        near_miss=near_miss,
        unreadable=len(stored) > (original is not None) + (near_miss is not None),
        outline=outline(row["regions"] or (), shown) if shown else "",
        answers=_answers(row),
        bars=[
            _bar(name, value, sample, found, facts) for name, value in sorted(line.scores.items())
        ],
        pair_id=line.pair_id,
        seed_id=shorten(line.seed_id, _NAME_CHARS),
        source=shorten(row["source"] or "", _NAME_CHARS),
        license=shorten(row["license"] or "", _NAME_CHARS),
    )


def _thumbnail(image: Mapping[str, Any] | None) -> Thumbnail | None:
    return thumbnail(image["bytes"]) if image and image["bytes"] else None


def _answers(row: Mapping[str, Any]) -> list[Answer]:
    counterfactual, rejected = row["counterfactual"], row["rejected"]
    found = [
        ("chosen", "True of the original", row["chosen"], row["chosen_spans"]),
        (
            "counterfactual",
            "True of the near miss",
            counterfactual,
            row["counterfactual_spans"],
        ),
        # Some recipes use one text for both; it is shown once.
        (
            "rejected",
            "Wrong answer",
            None if rejected == counterfactual else rejected,
            row.get("rejected_spans"),
        ),
    ]
    return [
        Answer(role, title, segments(text, spans or (), _ANSWER_CHARS))
        for role, title, text, spans in found
        if text
    ]


def _bar(name: str, value: float, sample: Sample, found: Survey, facts: RunFacts) -> Bar:
    line = sample.line
    histogram = found.histograms[line.recipe, name]
    limit = facts.limits(line.recipe, line.kind).get(name)
    return Bar(
        name=name,
        value=f"{value:.5g}",
        fill=histogram.position(value),
        tick=histogram.position(limit[1]) if limit else None,
        limit=limit_sign(limit) if limit else "",
        passed=limit is None or slack(limit, value) >= 0,
    )
