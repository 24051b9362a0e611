"""Finished runs in the formats of other trainers. Every format is a projection of `Pair`."""

from pipeline.export.formats import FORMATS, Format
from pipeline.export.projections import Wanted
from pipeline.export.run import ExportFacts, export_run

__all__ = ["FORMATS", "ExportFacts", "Format", "Wanted", "export_run"]
