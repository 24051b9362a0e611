"""Pairs images of the input with each other, before a run: what the recipe `retrieval` needs."""

from pipeline.pairing.match import PAIRING_FILE, PairingRequest, pair_images

__all__ = ["PAIRING_FILE", "PairingRequest", "pair_images"]
