"""Pairs images of the input with each other, before a run: what the recipe `retrieval` needs."""

from pipeline.pairing.match import MATCHES_FILE, MatchRequest, match_images

__all__ = ["MATCHES_FILE", "MatchRequest", "match_images"]
