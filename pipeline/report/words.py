"""What a person reads: reasons explained, text made safe to show, differing words as segments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas.records import Reason

EXPLANATIONS: Mapping[str, str] = {
    Reason.IMAGE_NOT_FOUND: "The input row names an image file that is not there.",
    Reason.BAD_IMAGE: "The file is empty, cut off, or no picture that can be decoded.",
    Reason.IMAGE_TOO_LARGE: "The picture has more pixels than the loader's limit allows.",
    Reason.IMAGE_TOO_SMALL: "The picture is too small to hold a visible difference.",
    Reason.BAD_BOX: "An annotated box or mask is empty, reversed, damaged, or outside the picture.",
    Reason.BAD_TEXT: "The prompt or an answer holds characters that are no text.",
    Reason.TEXT_TOO_LONG: "The prompt, an answer, or what a model was to be told is longer than "
    "the limit.",
    Reason.MISSING_ANSWER: "The input row has no true answer.",
    Reason.NO_TAG: "The tagger saw no thing in the picture, only scenes, qualities or doings.",
    Reason.NO_REGION: "The picture has no region that could be changed: none is annotated or was "
    "found, or others cover it.",
    Reason.NOT_IN_ANSWER: "No region is mentioned in the true answer, so changing "
    "one would not make the answer wrong.",
    Reason.AMBIGUOUS_REGION: "Several things in the picture bear the same name; after the "
    "change the answer could still be true of another one.",
    Reason.REGION_TOO_SMALL: "The region is so small that its change could go unnoticed.",
    Reason.REGION_TOO_LARGE: "The region covers so much of the picture that little would be "
    "left around it.",
    Reason.BAD_SEGMENTATION: "The object could not be cut out of its box cleanly.",
    Reason.NO_COLOR_WORD: "The answer names no colour of the object that could be exchanged, "
    "so a new colour would not make it wrong.",
    Reason.COLOR_MISMATCH: "The colour that the answer names is not the one the pixels show.",
    Reason.NO_COUNT_WORD: "The answer names no number of the objects that could be exchanged, "
    "so one more would not make it wrong.",
    Reason.COUNT_MISMATCH: "The number in the answer is not the number of annotated objects.",
    Reason.NO_FREE_PLACE: "No plausible free place for a copy of the object was found, or the "
    "answer or the picture's edge ties it to the place it has.",
    Reason.NO_SIDE_WORD: "The answer says left or right nowhere, or not in a way that can be "
    "exchanged, so the mirrored picture would not make it wrong.",
    Reason.SIDE_IN_PROMPT: "The prompt itself says left or right, so mirroring would change "
    "the question.",
    Reason.NO_GIVEN_NEGATIVE: "The input row has no other image, or no answer that is true of it.",
    Reason.SHAPE_MISMATCH: "The two images that the row brought differ too much in shape to be "
    "shown at one size.",
    Reason.EXTREME_ASPECT: "The picture is too long and narrow for the model that was to edit or "
    "paint it.",
    Reason.MODEL_REFUSED: "The chat model declined to answer; the evidence holds its words.",
    Reason.BAD_REPLY: "The chat model's reply was not in the form asked for, nor was its second "
    "one; the evidence holds it.",
    Reason.NOTHING_TO_EDIT: "No single edit of the picture would make the wrong answer right, or "
    "the planned one does not fit the answers.",
    Reason.CONTRAST_LOST: "The rewritten answers no longer differ in what the captions "
    "differed in.",
    Reason.NO_ANSWER_PAIR: "The sampled answers do not differ enough in quality to make a pair.",
    Reason.TOO_SIMILAR: "The near miss is so like the original that the difference may not show.",
    Reason.TOO_DIFFERENT: "The near miss is so unlike the original that it is no near miss.",
    Reason.NOT_SELECTED: "A good candidate, but another one of the same input row was better.",
    Reason.NO_CHANGE: "The editor gave the picture back with hardly anything changed.",
    Reason.DRIFTED: "The editor changed more than it was told to, or moved the whole picture.",
    Reason.NO_CHANGE_INSIDE: "Hardly anything changed inside the region.",
    Reason.CHANGE_OUTSIDE: "The picture changed outside the region, too.",
    Reason.NO_TEXT_DIFFERENCE: "The true answer and the counterfactual say the same.",
    Reason.REFUTED: "The chat model that was asked to check the pair did not find in the pictures "
    "what the answers say.",
    Reason.MODEL_ERROR: "A stage failed on this row; the detail holds its error.",
    Reason.OUT_OF_MEMORY: "A stage ran out of memory even with this row alone.",
    Reason.TIMED_OUT: "A stage took longer over this row than the time limit allows.",
    Reason.CRASHED: "The row ended the process that worked on it twice, and was set aside.",
    Reason.REQUEST_FAILED: "The chat endpoint would not take this row's request, or failed on it "
    "again and again.",
}
"""One plain sentence for every reason."""

# Control characters but for newline and tab, and the marks that reorder text around them: both
# would let the text of a row disturb the page or the terminal around it.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Segment(NamedTuple):
    """A stretch of an answer."""

    text: str
    """Safe to show, not yet escaped."""
    marked: bool
    """Whether it is one of the differing words."""


def explain(reason: str) -> str:
    """The reason in a sentence; its own words where nobody has written one."""
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
