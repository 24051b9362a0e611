"""One static page about a run: its pairs, its drops and why, its scores."""

from __future__ import annotations

from pipeline.report.facts import Limit, RunFacts, Thresholds
from pipeline.report.page import write_report

__all__ = ["Limit", "RunFacts", "Thresholds", "write_report"]
