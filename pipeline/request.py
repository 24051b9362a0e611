"""What a `run` command was asked for, its exit statuses, and the checks before it writes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import IntEnum
from uuid import uuid4

from pipeline.engine.placement import Placement, split, unknown_stages
from pipeline.errors import UsageError
from pipeline.recipes.build import RecipeBook
from pipeline.recipes.chains import make_chains
from pipeline.run_folder import Identity
from pipeline.sources import Source
from schemas.files import Folder
from schemas.records import SCHEMA_VERSION
from workers.chain import Chain

log = logging.getLogger(__name__)


class Exit(IntEnum):
    """Exit status of a command."""

    COMPLETE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3


@dataclass(frozen=True)
class Request:
    """What `run` was asked for."""

    book: RecipeBook
    """Chains and shard size."""
    placement: Placement
    """Which stages share actors."""
    source: Source
    """The input."""
    output: str
    """Run directory: a path or URL."""
    seed: int = 0
    """The run's seed."""
    limit: int | None = None
    """Only the first rows of the input."""
    local: bool = False
    """Without Ray, in one worker process."""
    retry_errors: bool = False
    """Do shards again in which rows raised, crashed or timed out."""
    attempt: str = field(default_factory=lambda: uuid4().hex)
    """Identity of this driver process."""

    def identity(self) -> Identity:
        """What the run is; a second command must agree in it."""
        return Identity(
            recipe=self.book.name,
            recipe_digest=self.book.digest,
            input=self.source.input.url,
            image_root=self.source.image_root,
            input_digest=self.source.digest(),
            seed=self.seed,
            shard_size=self.book.shard_size,
            limit=self.limit,
            schema_version=SCHEMA_VERSION,
        )


def check(request: Request) -> tuple[Folder, tuple[Chain, ...]]:
    """The run directory and the chains to run.

    UsageError if the placement does not fit the chains or the directory cannot be written.
    """
    chains = make_chains(request.book, request.seed)
    for chain in chains:
        split(chain, request.placement)
    for stage in unknown_stages(chains, request.placement):
        log.warning(
            "placement %s names stage %s, which the recipe does not have",
            request.placement.name,
            stage,
        )
    folder = Folder.at(request.output)
    try:
        folder.write("write-test", b"")
        folder.delete("write-test")
    except (OSError, ValueError) as error:
        raise UsageError(f"--output {folder.url}: cannot be written: {error}") from None
    return folder, chains
