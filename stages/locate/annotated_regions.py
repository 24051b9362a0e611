"""Which of a seed's annotated regions are worth changing. Knows boxes and text, not pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.known import Known
from schemas.records import Drop, Grounded, Reason, Seed
from stages import wording
from stages.base import Device, RecordStage
from stages.locate.regions import RegionLimits


@dataclass(frozen=True)
class AnnotatedRegions(RegionLimits, RecordStage[Seed, Grounded]):
    """Keep the annotated regions that the answer is about and that can be told apart."""

    def open(self, device: Device) -> None:
        """Load the backends, and the rules on words."""
        super().open(device)
        wording.load_rules()

    def process_one(self, record: Seed) -> Sequence[Grounded] | Drop:
        """The regions worth changing, best first, or why there is none."""
        if not record.regions:
            return Drop(Reason.NO_REGION, "no region is annotated")
        known = Known.annotated(record.regions)
        targets = self.worth_changing(record, known)
        return targets if isinstance(targets, Drop) else [Grounded(record, known, targets)]
