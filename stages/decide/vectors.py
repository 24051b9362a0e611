"""Unit vectors from backends: checked, and compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit_rows(
    backend: object, rows: NDArray[np.float32], what: str, count: int
) -> NDArray[np.float64]:
    """The rows in float64, scaled to length 1; the backend was asked for `count` of `what`.

    ValueError, naming the backend, unless it gave one row of about unit length for each.
    """
    exact = np.asarray(rows, np.float64)
    if exact.ndim != 2 or len(exact) != count:
        raise ValueError(
            f"{type(backend).__name__} gave an array of shape {exact.shape} "
            f"for {count} {what}; one row each is expected"
        )
    lengths = np.sqrt(np.sum(exact**2, axis=1))
    wrong = lengths[~(np.abs(lengths - 1) < 1e-2)]  # negated, so that NaN counts as wrong
    if len(wrong):
        raise ValueError(
            f"{type(backend).__name__} gave a row of length {wrong[0]}; unit length is expected"
        )
    return np.asarray(exact / lengths[:, None])


def cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The cosine of two rows of `unit_rows`, within [-1, 1]."""
    # A sum, not a BLAS product, whose last digits depend on the number of threads.
    return float(np.clip(np.sum(first * second), -1.0, 1.0))
