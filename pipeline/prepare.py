"""The run directory before its first shard: found and compared, or made with the manifest.

Also the pass that pairs the input's images, for recipes that need it. Runs no shard of the run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import version

from pipeline.pairing import PAIRING_FILE, PairingRequest, pair_images
from pipeline.recipes.contents import content_digests
from pipeline.request import Request
from pipeline.run_folder import Identity, RunFolder, RunInfo
from pipeline.sources import write_manifest
from pipeline.version import code_version
from schemas.files import Folder
from stages.read.loader import Loader

log = logging.getLogger(__name__)


def prepare(request: Request, folder: Folder) -> RunFolder:
    """The run that the folder holds already, or a new one with its manifest.

    UsageError if the folder holds another run. The input is scanned again if it has moved, for the
    manifest names its files.
    """
    identity, files = request.identity(), content_digests(request.book)
    found = RunFolder.find(folder, identity, files)
    if found is not None and found.info.identity == identity:
        return found
    if found is not None:
        log.info("the input is at another place than before")
        found.forget_input()
    return _scan(request, folder, identity, files)


def _scan(
    request: Request, folder: Folder, identity: Identity, files: Mapping[str, str]
) -> RunFolder:
    """Write the manifest, then `run.json`."""
    # The manifest holds the pairing's results, and it is about to be written anew.
    folder.delete(PAIRING_FILE)
    log.info("scanning %s", request.source.input.url)
    manifest = write_manifest(
        request.source, folder, request.seed, request.book.shard_size, request.limit
    )
    info = RunInfo(
        identity=identity,
        num_seeds=manifest.num_seeds,
        num_shards=manifest.num_shards,
        num_duplicates=manifest.num_duplicates,
        recipes=[recipe.name for recipe in request.book.recipes],
        settings={recipe.name: recipe.settings for recipe in request.book.recipes},
        placement=request.placement.model_dump(),
        versions=_versions(),
        files=files,
    )
    return RunFolder.create(folder, info)


def pair_input_images(request: Request, run: RunFolder) -> None:
    """Give each seed its given negative, where the recipe pairs the images of its input."""
    if request.book.pairing is None:
        return
    loader = request.book.recipes[0].links[0].stage
    assert isinstance(loader, Loader)
    pair_images(
        PairingRequest(
            run=run.folder,
            num_shards=run.info.num_shards,
            pairing=request.book.pairing,
            loader=loader,
            run_seed=request.seed,
            placement=request.placement,
            attempt=request.attempt,
            local=request.local,
        )
    )


def _versions() -> Mapping[str, str]:
    """Versions of what touches a row's bytes."""
    names = ("numpy", "pillow", "opencv-contrib-python-headless", "pyarrow", "ray", "inflect")
    return {"nearmiss": code_version(), **{name: version(name) for name in names}}
