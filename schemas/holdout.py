"""Which pairs are held out: one rule for the trainer and for exports.

Source images are held out, not rows, and by their name: a photo has one name in all runs over it,
whatever codec their recipes write. Pairs of two photos of the input (`retrieval`) bring the fold
that both were set aside in before they were paired; no draw over one of the two could keep the
other out of the training rows.
"""

from __future__ import annotations

from schemas.ids import row_seed

TRAIN, VALIDATION = "train", "validation"
"""Names of the two sides, and of the folds."""

FOLD = "fold"
"""Name under which `Provenance.params` holds the fold of a pair of two photos."""


def source_image(path: str | None, seed_id: str) -> str:
    """What a pair's source image is known by: its file name, or the seed's id without one."""
    return seed_id if path is None else path


def is_held_out(image: str, fold: str | None, share: float, seed: int) -> bool:
    """Whether a pair is held out, of a split that holds out about `share` of the source images.

    `image` is what `source_image` gives. A pair with a `fold` follows it whatever `share` and
    `seed`; without one, name and seed decide alone, so that what is held out stays so when data is
    added. A share of 0 is no split: nothing is held out.
    """
    if share <= 0:
        return False
    if fold is not None:
        return fold == VALIDATION
    return row_seed(seed, image, "held-out") < share * 2**63
