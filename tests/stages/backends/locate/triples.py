"""Detections as plain triples, for comparisons."""

from __future__ import annotations


def triples(found):
    """Tag, box and score for every name of every detection, in order."""
    return [(name, one.box, score) for one in found for name, score in one.names.items()]
