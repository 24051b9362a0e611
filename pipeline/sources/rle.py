"""COCO's packed run lengths: the text form of a mask in annotation files."""

from __future__ import annotations


def unpacked(text: str | bytes) -> list[int]:
    """The run lengths in a packed `counts` string; ValueError if it is damaged.

    Each number is written in groups of five bits, lowest first, in characters from "0" on; bit 5
    says that another group follows, and the highest bit of the last group is the sign. From the
    third run on, a number is the difference to the run two places before.
    """
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    runs: list[int] = []
    position = 0
    while position < len(data):
        value, shift, more = 0, 0, True
        while more:
            if position >= len(data) or not 0 <= data[position] - 48 < 64:
                raise ValueError(f"packed run lengths are damaged at character {position}")
            group = data[position] - 48
            value |= (group & 0x1F) << shift
            more = bool(group & 0x20)
            shift += 5
            position += 1
        if group & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    if any(run < 0 for run in runs):
        raise ValueError("packed run lengths are damaged: a run is negative")
    return runs
