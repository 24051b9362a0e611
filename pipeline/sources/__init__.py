"""Input datasets: found, mapped to seeds, and scanned into the manifest of a run."""

from pipeline.sources.columns import FIELDS
from pipeline.sources.errors import SourceError
from pipeline.sources.manifest import Manifest, write_manifest
from pipeline.sources.presets import presets
from pipeline.sources.source import Source, open_source

__all__ = [
    "FIELDS",
    "Manifest",
    "Source",
    "SourceError",
    "open_source",
    "presets",
    "write_manifest",
]
