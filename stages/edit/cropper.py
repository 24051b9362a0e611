"""A small crop of the image in its place, as in mDPO (arXiv 2406.11839)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le

from schemas.geometry import Box
from schemas.ids import row_seed
from schemas.records import Candidate, Contrast, Drop, Kind, Seed
from stages import wording
from stages.base import Device, RecordStage
from stages.pixels import decode, encode_pair


@dataclass(frozen=True)
class Cropper(RecordStage[Seed, Candidate]):
    """Crop a random box and enlarge it to the size of the image; no counterfactual answer.

    The box is drawn as torchvision's `RandomResizedCrop` does it in mDPO's code: the share of the
    area uniform in [min_area, max_area], the aspect ratio log-uniform in [3/4, 4/3]. The crop is
    stored with the row, so that policy and reference see the same one. mDPO's crops often still
    agree with the answer: here a crop that shows most of an annotated region that the answer
    mentions is drawn again, up to `attempts` times, and the draw that shows least is kept.
    """

    min_area: Annotated[float, Gt(0), Le(1)] = 0.01
    """Smallest crop, as a share of the image's area."""
    max_area: Annotated[float, Gt(0), Le(1)] = 0.2
    """Largest crop, as a share of the image's area; at least `min_area`."""
    max_shown: Annotated[float, Ge(0), Le(1)] = 0.5
    """Largest share of a mentioned region's box that the crop should show."""
    attempts: Annotated[int, Ge(1)] = 10
    """Most draws for one row."""

    def open(self, device: Device) -> None:
        """Load the backends, and the rules on words."""
        super().open(device)
        wording.load_rules()

    def __post_init__(self) -> None:
        if self.min_area > self.max_area:
            raise ValueError(
                f"cropper: min_area {self.min_area} is above max_area {self.max_area}; "
                "set min_area <= max_area"
            )

    def process_one(self, record: Seed) -> Sequence[Candidate] | Drop:
        """The cropped candidate."""
        named = [
            region.box
            for region in record.regions
            if region.box.area > 0 and wording.find_mentions(record.chosen, region.label)
        ]
        best: tuple[float, int, Box] | None = None
        for attempt in range(self.attempts):
            box = self._draw(record, attempt)
            shown = max((b.intersection(box).area / b.area for b in named), default=0.0)
            if best is None or shown < best[0]:
                best = (shown, attempt, box)
            if shown <= self.max_shown:
                break
        assert best is not None
        _, attempt, box = best
        pixels = decode(record.image)
        x0, y0, x1, y1 = box.pixels(record.width, record.height)
        enlarged = cv2.resize(
            np.ascontiguousarray(pixels[y0:y1, x0:x1]),
            (record.width, record.height),
            interpolation=cv2.INTER_CUBIC,
        )
        chosen_image, rejected_image = encode_pair(record.image, enlarged)
        return [
            Candidate(
                seed=record,
                contrast=Contrast(
                    kind=Kind.CROP,
                    target="image",
                    replacement=None,
                    instruction=f"crop the image to {x1 - x0}x{y1 - y0} at ({x0}, {y0})",
                ),
                regions=(),
                chosen_image=chosen_image,
                rejected_image=rejected_image,
                counterfactual=None,
                params={"crop": f"{x0},{y0},{x1},{y1}", "attempt": str(attempt)},
            )
        ]

    def _draw(self, seed: Seed, attempt: int) -> Box:
        draw = np.random.default_rng(row_seed(seed.run_seed, seed.seed_id, "cropper", attempt))
        area = seed.width * seed.height * draw.uniform(self.min_area, self.max_area)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        # If the drawn shape does not fit (a panorama), one side is clipped, the other lengthened.
        width = min(math.sqrt(area * ratio), seed.width)
        height = min(area / width, seed.height)
        width = min(area / height, seed.width)
        whole_width = max(1, min(round(width), seed.width))
        whole_height = max(1, min(round(height), seed.height))
        x0 = int(draw.integers(0, seed.width - whole_width + 1))
        y0 = int(draw.integers(0, seed.height - whole_height + 1))
        return Box(x0, y0, x0 + whole_width, y0 + whole_height)
