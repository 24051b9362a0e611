"""The scan: an input read once, its rows written to the run directory without pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import islice

from pipeline.sources.duplicates import SeenIds
from pipeline.sources.errors import SourceError, shown
from pipeline.sources.source import Source
from schemas.files import Folder
from schemas.manifest import delete_seeds, read_seeds, write_seeds
from schemas.records import ImageRef, SeedRef
from stages.read.inputs import open_parquet, read_embedded

_CHUNK_ROWS = 128
"""Rows looked up at once among the ids seen."""
_BLOCK_ROWS = 64
"""Embedded images read at once when two rows with the same id are compared."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a scan found."""

    num_seeds: int
    """Rows in the manifest, those with a defect included."""
    num_shards: int
    """Files of the manifest."""
    num_duplicates: int
    """Rows left out because an identical row with the same id came before."""
    shard_size: int
    """Rows in every file but the last."""
    digest: str
    """`Source.digest()`."""
    preset: str
    """Name of the preset that read the input."""


def write_manifest(
    source: Source, folder: Folder, run_seed: int, shard_size: int, limit: int | None = None
) -> Manifest:
    """Scan an input into `RUN/seeds/`; `limit` is the number of seeds after which it stops.

    Whatever an earlier scan left there is removed first, so an interrupted scan is simply repeated;
    that the manifest is whole is for the caller to record, after this returns. `SourceError` if
    the input is empty, if a row cannot be read, or if two different rows have the same id.
    """
    if shard_size < 1:
        raise ValueError(f"shard_size must be at least 1, got {shard_size}")
    digest = source.digest()
    delete_seeds(folder)
    scan = _Scan(folder, shard_size)
    rows = source.rows(run_seed)
    while chunk := list(islice(rows, _room(limit, scan.num_seeds))):
        scan.take(chunk)
    scan.finish()
    if scan.num_seeds == 0 and limit != 0:
        raise SourceError(f"{source.input.url}: empty; allowed: at least one row")
    return Manifest(
        scan.num_seeds,
        -(-scan.num_seeds // shard_size),
        scan.num_duplicates,
        shard_size,
        digest,
        source.mapped.preset,
    )


def _room(limit: int | None, num_seeds: int) -> int:
    # Rows beyond the limit are not even parsed: an error there does not concern this run.
    return _CHUNK_ROWS if limit is None else min(_CHUNK_ROWS, limit - num_seeds)


@dataclass
class _Scan:
    """Rows on their way into shard files; a position is a row's place in the manifest."""

    folder: Folder
    shard_size: int
    num_shards: int = 0
    num_duplicates: int = 0
    pending: list[SeedRef] = field(default_factory=list)
    seen: SeenIds = field(default_factory=SeenIds)

    def __post_init__(self) -> None:
        # Of this scan alone: another may find other content under the same names.
        self._read_shard = lru_cache(maxsize=4)(partial(read_seeds, self.folder))
        self._digests = lru_cache(maxsize=1024)(_block_digests)

    @property
    def num_seeds(self) -> int:
        return self.num_shards * self.shard_size + len(self.pending)

    def take(self, chunk: list[SeedRef]) -> None:
        """Add the rows that are new."""
        recent: dict[str, int] = {}
        found = self.seen.candidates([seed.seed_id for seed in chunk])
        accepted: list[SeedRef] = []
        for seed, positions in zip(chunk, found, strict=True):
            if seed.seed_id in recent:
                earlier: SeedRef | None = accepted[recent[seed.seed_id]]
            else:
                candidates = (self._at(position) for position in positions)
                earlier = next((c for c in candidates if c.seed_id == seed.seed_id), None)
            if earlier is None:
                recent[seed.seed_id] = len(accepted)
                accepted.append(seed)
            else:
                self._check_identical(earlier, seed)
                self.num_duplicates += 1
        start = self.num_seeds
        self.seen.add(list(recent), range(start, start + len(accepted)))
        for seed in accepted:
            self.pending.append(seed)
            if len(self.pending) == self.shard_size:
                self._flush()

    def finish(self) -> None:
        """Write the remaining rows."""
        if self.pending:
            write_seeds(self.folder, self.num_shards, self.pending)

    def _flush(self) -> None:
        write_seeds(self.folder, self.num_shards, self.pending)
        self.num_shards += 1
        self.pending = []

    def _at(self, position: int) -> SeedRef:
        """The row at a position, from memory or from its file."""
        shard, index = divmod(position, self.shard_size)
        if shard == self.num_shards:
            return self.pending[index]
        return self._read_shard(shard)[index]

    def _check_identical(self, first: SeedRef, second: SeedRef) -> None:
        """`SourceError` unless two rows with the same id say the same."""
        names = ("prompt", "chosen", "rejected", "regions", "license", "defect")
        differing = [n for n in names if getattr(first, n) != getattr(second, n)]
        if self._image_key(first.image) != self._image_key(second.image):
            differing.append("image")
        if differing:
            raise SourceError(
                f"{second.source}, field id: {shown(second.seed_id)} is also the id of "
                f"{first.source}, with different {', '.join(differing)}; allowed: one row for each "
                "id (--columns id= takes ids from the content instead)"
            )

    def _image_key(self, image: ImageRef) -> ImageRef | bytes:
        """Equal for images that are the same: of embedded ones the content counts."""
        if image.row is None or image.path is None or image.column is None:
            return image
        block, index = divmod(image.row, _BLOCK_ROWS)
        return self._digests(image.path, image.column, block)[index]


def _block_digests(path: str, column: str, block: int) -> list[bytes]:
    """Digests of some neighbouring images: rows that repeat often repeat in runs."""
    with open_parquet(path) as file:
        end = min((block + 1) * _BLOCK_ROWS, file.metadata.num_rows)
    rows = range(block * _BLOCK_ROWS, end)
    images = read_embedded(path, column, rows)
    return [blake2b(images[row] or b"", digest_size=16).digest() for row in rows]
