"""Content-derived ids and per-row random seeds. No wall clock, no global generator."""

from __future__ import annotations

from hashlib import blake2b


def content_id(*parts: str | bytes | int) -> str:
    """A 32-digit hex id of the parts, in order.

    Every part is hashed with its type and length, so ("ab", "c") and ("a", "bc") differ.
    """
    digest = blake2b(digest_size=16)
    for part in parts:
        if isinstance(part, bytes):
            kind, data = b"b", part
        elif isinstance(part, str):
            kind, data = b"s", part.encode("utf-8", "surrogatepass")
        else:
            kind, data = b"i", str(part).encode()
        digest.update(kind + len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def row_seed(run_seed: int, seed_id: str, stage: str, attempt: int = 0) -> int:
    """The 63-bit random seed of one row in one stage.

    It depends on nothing else, so a retry, another machine or another placement draws the same
    numbers. `attempt` counts deliberate new draws (a failed edit), not retries after a crash.
    """
    digest = content_id("row_seed", run_seed, seed_id, stage, attempt)
    return int(digest[:16], 16) >> 1
