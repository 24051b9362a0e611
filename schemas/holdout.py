"""Which pairs are held out: one rule for the trainer and for exports.

Source images are held out, not rows, and by their name: a photo has the same name in all runs over
it, whatever codec their recipes write. Pairs of two photos of the input (`retrieval`) carry the
fold that both photos were assigned to before pairing: a draw over one of the two could not keep the
other out of the training rows.
"""

from __future__ import annotations

from schemas.ids import row_seed

TRAIN, VALIDATION = "train", "validation"
"""Names of the two sides, and of the folds."""

FOLD = "fold"
"""Name under which `Provenance.params` holds the fold of a pair of two photos."""


def source_image(path: str | None, seed_id: str) -> str:
    """The name that identifies a pair's source image: its file name, else the seed's id."""
    return seed_id if path is None else path


def is_held_out(image: str, fold: str | None, share: float, seed: int) -> bool:
    """Whether a pair is held out by a split that holds out about `share` of the source images.

    `image` is the result of `source_image`. A pair with a `fold` follows it, whatever `share` and
    `seed` are. Otherwise only name and seed decide, so that held-out images stay held out when data
    is added. A share of 0 holds out nothing.
    """
    if share <= 0:
        return False
    if fold is not None:
        return fold == VALIDATION
    return row_seed(seed, image, "held-out") < share * 2**63
