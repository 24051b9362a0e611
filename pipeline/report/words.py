"""Text for readers: reasons explained, text made safe to show, differing words as segments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas.records import Reason

EXPLANATIONS: Mapping[str, str] = {
    Reason.IMAGE_NOT_FOUND: "The input row names no image, or one that does not exist.",
    Reason.BAD_IMAGE: "The image file is empty, truncated, or cannot be decoded.",
    Reason.IMAGE_TOO_LARGE: "The image has more pixels than the loader's limit allows.",
    Reason.IMAGE_TOO_SMALL: "The image is too small to hold a visible difference.",
    Reason.BAD_BOX: "An annotated box or mask is empty, damaged, or outside the image.",
    Reason.BAD_TEXT: "The prompt or an answer holds characters that cannot be stored as text.",
    Reason.TEXT_TOO_LONG: "The prompt, an answer, or a model's instructions exceed the length "
    "limit.",
    Reason.MISSING_ANSWER: "The input row has no true answer.",
    Reason.NO_TAG: "The tagger found no object in the image, only scenes, properties or actions.",
    Reason.NO_REGION: "The image has no region that could be changed: none was annotated or "
    "detected, or other objects cover it.",
    Reason.NOT_IN_ANSWER: "The true answer mentions none of the regions, so changing "
    "one would not make it wrong.",
    Reason.AMBIGUOUS_REGION: "Several objects in the image share the same name, so after the "
    "change the answer could still be true of another one.",
    Reason.REGION_TOO_SMALL: "The region is so small that its change could go unnoticed.",
    Reason.REGION_TOO_LARGE: "The region covers so much of the image that little would be "
    "left around it.",
    Reason.BAD_SEGMENTATION: "The object could not be cleanly segmented from its background.",
    Reason.NO_COLOR_WORD: "The answer does not name a colour of the object that could be replaced, "
    "so a new colour would not make it wrong.",
    Reason.COLOR_MISMATCH: "The colour that the answer names is not the one the pixels show.",
    Reason.NO_COUNT_WORD: "The answer does not say how many of the objects there are, "
    "so one more would not make it wrong.",
    Reason.COUNT_MISMATCH: "The number in the answer is not the number of annotated objects.",
    Reason.NO_FREE_PLACE: "There was no plausible place for a copy of the object, or the "
    "answer or the image border ties it to where it is.",
    Reason.NO_SIDE_WORD: "The answer does not say left or right in a way that can be "
    "swapped, so mirroring the image would not make it wrong.",
    Reason.SIDE_IN_PROMPT: "The prompt itself says left or right, so mirroring would change "
    "the question.",
    Reason.NO_GIVEN_NEGATIVE: "The input row has no second image, or no answer that is true of it.",
    Reason.SHAPE_MISMATCH: "The row's two images have aspect ratios too different to be "
    "brought to one size.",
    Reason.EXTREME_ASPECT: "The image is too long and narrow for the model that should edit or "
    "generate it.",
    Reason.MODEL_REFUSED: "The chat model declined to answer; its reply is kept as evidence.",
    Reason.BAD_REPLY: "The chat model did not reply in the requested format, not even when asked "
    "again; its reply is kept as evidence.",
    Reason.NOTHING_TO_EDIT: "No single edit of the image would make the wrong answer right, or "
    "the planned one does not fit the answers.",
    Reason.CONTRAST_LOST: "The rewritten answers no longer differ in what the captions "
    "differed in.",
    Reason.NO_ANSWER_PAIR: "The sampled answers do not differ enough in quality to make a pair.",
    Reason.TOO_SIMILAR: "The near miss is so similar to the original that the difference may not "
    "be visible.",
    Reason.TOO_DIFFERENT: "The near miss differs too much from the original.",
    Reason.NOT_SELECTED: "A good candidate, but another one from the same input row was better.",
    Reason.NO_CHANGE: "The editor returned the image almost unchanged.",
    Reason.DRIFTED: "The editor changed more than it was asked to, or shifted the whole image.",
    Reason.NO_CHANGE_INSIDE: "Hardly anything changed inside the region.",
    Reason.CHANGE_OUTSIDE: "The image also changed outside the region.",
    Reason.NO_TEXT_DIFFERENCE: "The true answer and the counterfactual say the same.",
    Reason.REFUTED: "The chat model that checked the pair did not find in the images "
    "what the answers say.",
    Reason.MODEL_ERROR: "A stage failed on this row; the detail holds its error.",
    Reason.OUT_OF_MEMORY: "A stage ran out of memory even with this row alone.",
    Reason.TIMED_OUT: "A stage exceeded its time limit on this row.",
    Reason.CRASHED: "The row crashed its process twice and was set aside.",
    Reason.REQUEST_FAILED: "The chat endpoint rejected this row's request, or kept failing on it.",
}
"""One plain sentence for every reason."""

# Control characters other than newline and tab, and marks that reorder the text around them: both
# would let the text of a row disturb the page or the terminal.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Segment(NamedTuple):
    """A stretch of an answer."""

    text: str
    """Safe to show, not yet escaped."""
    marked: bool
    """Whether it is one of the differing words."""


def explain(reason: str) -> str:
    """The reason in a sentence; its name in words where there is none."""
    return EXPLANATIONS.get(reason, reason.replace("_", " ").capitalize() + ".")


def safe(text: str) -> str:
    """The text with each control or reordering character replaced, one for one."""
    return _UNSAFE.sub("\ufffd", text)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters of safe text, and how many are left out."""
    if len(text) <= limit:
        return safe(text)
    return f"{safe(text[:limit])}… ({len(text) - limit:,} more characters)"


def segments(text: str, spans: Sequence[Sequence[int]], limit: int) -> list[Segment]:
    """The answer cut at its spans; a window of `limit` characters that shows the first span.

    Offsets outside the text are cut to it. An empty span (words inserted on the other side only)
    marks nothing.
    """
    length = len(text)
    bounds = sorted((max(0, min(a, length)), max(0, min(b, length))) for a, b in spans)
    # A third of the window before the first difference: enough to read what leads to it.
    first = bounds[0][0] if bounds else 0
    start = max(0, min(first - limit // 3, length - limit)) if length > limit else 0
    end = min(length, start + limit)
    found: list[Segment] = []
    if start:
        found.append(Segment(f"({start:,} characters before) …", marked=False))
    at = start
    for span_start, span_end in bounds:
        a, b = max(span_start, at), min(span_end, end)
        if a >= b:
            continue
        if a > at:
            found.append(Segment(safe(text[at:a]), marked=False))
        found.append(Segment(safe(text[a:b]), marked=True))
        at = b
    if at < end:
        found.append(Segment(safe(text[at:end]), marked=False))
    if end < length:
        found.append(Segment(f"… ({length - end:,} more characters)", marked=False))
    return found
