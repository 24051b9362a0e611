"""One static page about a run: what it gave, what it dropped and why, and how that looks."""

from __future__ import annotations

from pipeline.report.facts import Limit, RunFacts, Thresholds
from pipeline.report.page import write_report

__all__ = ["Limit", "RunFacts", "Thresholds", "write_report"]
