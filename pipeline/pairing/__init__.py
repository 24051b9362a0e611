"""Pairs images of the input with each other, before a run: what the recipe `retrieval` needs.

`match.py` is the pass (vectors, neighbours, a rewritten manifest), `neighbours.py` the search
for similar images and the choice among them. Knows the run directory only as a `Folder`.
"""

from pipeline.pairing.match import PAIRING_FILE, PairingRequest, pair_images

__all__ = ["PAIRING_FILE", "PairingRequest", "pair_images"]
