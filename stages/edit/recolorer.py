"""Change the colour that the answer gives to a region, in the image and in the answer.

Colours are compared and changed in Oklab, which keeps the shading: there, scaling the light scales
lightness and chroma by one factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from schemas.ids import row_seed
from schemas.known import Thing
from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Kind,
    Reason,
    Region,
    Segmented,
    Span,
)
from stages import wording
from stages.base import Device, RecordStage
from stages.edit.oklab import (
    COLOR_NAMES,
    Floats,
    distance_to,
    has_color,
    into_gamut,
    median_color,
    name_map,
    name_of,
    oklab_of,
    to_oklab,
    to_rgb,
)
from stages.pixels import Pixels, decode, encode_pair

Bools = NDArray[np.bool_]

ACHROMATIC = frozenset({"black", "white", "gray"})

_TARGETS = {
    "black": "1c1c1c",
    "white": "f0f0f0",
    "red": "c81e1e",
    "orange": "f07d0a",
    "yellow": "f5d21e",
    "green": "2f8c46",
    "blue": "2d55b9",
    "purple": "7639a0",
    "pink": "f582af",
    "brown": "6b452a",
}
"""The colours to aim at. Gray is not one of them: it looks faded."""


@dataclass(frozen=True)
class Recolorer(RecordStage[Segmented, Candidate]):
    """Give the region another colour, and the answer the word for it.

    The answer must give the region's noun a basic colour, in the singular, and the pixels must have
    it. Within the mask, the pixels of that colour (by hue and chroma, or by lightness for black,
    white and gray) get the hue of the target, their chroma and lightness scaled by one factor each.
    The target is drawn from the row's seed among the colours that the answer does not use and that
    can be reached from the region's lightness; the result is measured and named again.
    """

    min_share: Annotated[float, Gt(0), Le(1)] = 0.3
    """Smallest share of the region's pixels that must have the named colour; 0.6 of it where
    the answer gives the region several colours."""
    max_around: Annotated[float, Gt(0)] = 1.0
    """The share of pixels around the region that have the named colour must stay below this
    multiple of the share inside. If the surroundings have as much of it, a mask cut by colour (such
    as GrabCut's) cannot be trusted; raise this for segmenters that do not cut by colour."""
    max_left: Annotated[float, Ge(0), Le(1)] = 0.12
    """Largest share of the region's pixels that may have the named colour afterwards."""
    min_named: Annotated[float, Ge(0), Le(1)] = 0.6
    """Smallest share of the changed pixels that must have the new colour by name."""
    min_distance: Annotated[float, Ge(0)] = 0.2
    """Smallest distance in Oklab between the old and the new colour."""
    max_gain: Annotated[float, Ge(1)] = 1.4
    """Largest factor by which lightness is raised; it may be lowered by twice that (darkening keeps
    shading, lightening amplifies noise)."""
    feather_px: Annotated[float, Gt(0)] = 2.0
    """Width of the soft edge, inside the mask, in pixels."""

    def open(self, device: Device) -> None:
        """Load the backends, and the rules on words."""
        super().open(device)
        wording.load_rules()

    def process_one(self, record: Segmented) -> Sequence[Candidate] | Drop:
        """The recoloured candidate, or why there is none."""
        seed, region = record.seed, record.region
        assert region.mask is not None
        words = _named_colors(record)
        if isinstance(words, Drop):
            return words
        image, mask = decode(seed.image), region.mask.to_array()
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if ys.size == 0:
            return Drop(Reason.BAD_SEGMENTATION, f'the mask of "{region.label}" is empty')
        band = max(3, round(0.15 * math.sqrt(region.mask.area)))
        crop = np.s_[
            max(ys[0] - band, 0) : ys[-1] + 1 + band, max(xs[0] - band, 0) : xs[-1] + 1 + band
        ]
        part, inside = image[crop], mask[crop]
        source = self._source(part[inside], words)
        if isinstance(source, Drop):
            return source
        taken = {c.name for c in wording.color_words(seed.chosen)}
        draw = np.random.default_rng(row_seed(seed.run_seed, seed.seed_id, "recolorer"))
        lab, edge = to_oklab(part), _edge_weight(inside, self.feather_px)
        base = median_color(lab[inside & has_color(part, source)])
        reachable = [t for t in _TARGETS if t not in taken and self._reaches(base, source, t)]
        weight = _weight(lab, base, source)
        alike = self._alike_around(weight, inside, band)
        if alike is not None:
            return Drop(Reason.BAD_SEGMENTATION, f"{source}: {alike}")
        weight = weight * edge
        tried = []
        for target in draw.permutation(np.array(reachable, dtype=object)):
            changed = self._recolor(lab, base, source, target)
            mixed = to_rgb(lab + (changed - lab) * weight[..., None])
            result = np.where(weight[..., None] > 0, mixed, part)
            trouble = self._trouble(result, inside, weight, source, target)
            if trouble is None:
                edited = image.copy()
                edited[crop] = result
                return [_candidate(record, words[source], source, target, edited)]
            tried.append(trouble)
        detail = "; ".join(tried) or f"no other colour can be reached from this {source}"
        return Drop(Reason.COLOR_MISMATCH, detail)

    def _source(self, pixels: Pixels, words: dict[str, list[Span]]) -> str | Drop:
        """The named colour that most of the pixels have."""
        shares = {name: float(has_color(pixels, name).mean()) for name in words}
        best = max(shares, key=lambda name: shares[name])
        limit = self.min_share * (0.6 if len(words) > 1 else 1)
        if shares[best] >= limit:
            return best
        counts = np.bincount(name_map(pixels), minlength=len(COLOR_NAMES))
        away = distance_to(median_color(to_oklab(pixels)), best)
        return Drop(
            Reason.COLOR_MISMATCH,
            f"{shares[best]:.2f} of the pixels are {best}, limit {limit:.2f}; most are "
            f"{COLOR_NAMES[int(counts.argmax())]}; their median is {away:.3f} from {best}",
        )

    def _alike_around(self, weight: Floats, inside: Bools, band: int) -> str | None:
        """Why the colour does not set the region apart from its surroundings; None if it does."""
        kernel = np.ones((2 * band + 1, 2 * band + 1), np.uint8)
        ring = (cv2.dilate(inside.astype(np.uint8), kernel) > 0) & ~inside
        if not ring.any():
            return None
        within, around = float((weight[inside] > 0.5).mean()), float((weight[ring] > 0.5).mean())
        if around < self.max_around * within:
            return None
        return f"{around:.2f} of the surroundings have the colour, {within:.2f} of the region"

    def _reaches(self, base: Floats, source: str, target: str) -> bool:
        """Whether the region's colour, once changed, would have the target's name."""
        changed = self._recolor(base[None, None], base, source, target)
        seen = to_oklab(to_rgb(changed))[0, 0]
        away = float(np.linalg.norm(seen - base))
        return target != source and name_of(seen) == target and away >= self.min_distance

    def _recolor(self, lab: Floats, base: Floats, source: str, target: str) -> Floats:
        """Every pixel as if its surface had the target's colour; [H, W, 3] Oklab."""
        goal = oklab_of(_TARGETS[target])
        gain = float(np.clip(goal[0] / base[0], 0.5 / self.max_gain, self.max_gain))
        light = lab[..., 0] * gain
        if gain > 1:
            # Highlights approach white instead of passing it.
            knee = 0.85
            over = np.maximum(light - knee, 0)
            light = np.minimum(light, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))
        goal_chroma = float(np.hypot(goal[1], goal[2])) * min(1.0, base[0] * gain / goal[0])
        hue = np.arctan2(goal[2], goal[1])
        if source in ACHROMATIC:
            chroma = goal_chroma * light / (base[0] * gain)
            turn = np.full_like(chroma, hue)
        else:
            base_chroma = float(np.hypot(base[1], base[2]))
            chroma = np.hypot(lab[..., 1], lab[..., 2]) * (goal_chroma / base_chroma)
            angle = np.arctan2(lab[..., 2], lab[..., 1]) - np.arctan2(base[2], base[1])
            # Halved: reflections and lighting spread the hue, and a wide spread names two colours.
            turn = hue + 0.5 * ((angle + np.pi) % (2 * np.pi) - np.pi)
        changed = np.stack([light, chroma * np.cos(turn), chroma * np.sin(turn)], axis=-1)
        return into_gamut(changed.astype(np.float32))

    def _trouble(
        self, result: Pixels, inside: Bools, weight: Floats, source: str, target: str
    ) -> str | None:
        """What is wrong with the new colour, measured on the pixels; None if it is good."""
        changed = inside & (weight > 0.5)
        if not changed.any():
            return f"{target}: no pixel changed"
        name = name_of(median_color(to_oklab(result[changed])))
        if name != target:
            return f"{target}: the region came out {name}"
        named = float(has_color(result[changed], target).mean())
        if named < self.min_named:
            return f"{target}: {named:.2f} came out {target}, limit {self.min_named}"
        left = float(has_color(result[inside], source).mean())
        if left > self.max_left:
            return f"{target}: {left:.2f} of the region is still {source}, limit {self.max_left}"
        return None


def _named_colors(record: Segmented) -> dict[str, list[Span]] | Drop:
    """The basic colours that the answer gives to the region, each with the words to swap."""
    seed, region = record.seed, record.region
    if any(_others_share(record, m) for m in _mentions(seed.chosen, region) if m.colors):
        return Drop(Reason.AMBIGUOUS_REGION, f'another "{region.label}" may be meant')
    found: dict[str, list[Span]] = {}
    new: dict[str, int] = {}
    for mention in _mentions(seed.chosen, region):
        for color in mention.colors:
            if mention.plural or mention.vague:
                return Drop(
                    Reason.AMBIGUOUS_REGION,
                    f'"{color.name}" is said of several: "{mention.noun.text}"',
                )
            if color.exact:
                found.setdefault(color.name, []).append(color.span)
                new[color.name] = new.get(color.name, 0) + mention.introduces
    for other in record.others:
        if region.box.intersection(other.box).area <= 0.5 * other.box.area:
            continue
        same = found.keys() & {n for m in _mentions(seed.chosen, other) for n in m.color_names}
        if same:
            return Drop(
                Reason.AMBIGUOUS_REGION, f'the {min(same)} "{other.label}" would change as well'
            )
    for name in list(found):
        if new[name] > 1:
            return Drop(Reason.AMBIGUOUS_REGION, f"the answer mentions {new[name]} {name} ones")
        if name in {c.name for c in wording.pronoun_colors(seed.chosen)}:
            return Drop(Reason.NO_COLOR_WORD, f'"it is {name}": no rule says what "it" is')
        if _said_elsewhere(seed.chosen, wording.head_noun(region.label), name, found[name]):
            return Drop(
                Reason.NO_COLOR_WORD, f"{name} is also said of something that no rule recognises"
            )
        if any(name in m.color_names for m in _mentions(seed.prompt, region)):
            return Drop(Reason.NO_COLOR_WORD, f"the prompt itself says {name}")
    if not found:
        return Drop(Reason.NO_COLOR_WORD, f'the answer gives "{region.label}" no basic colour')
    return found


def _said_elsewhere(text: str, noun: str, name: str, spans: Sequence[Span]) -> bool:
    """Whether the colour occurs elsewhere without belonging to another thing: "car, painted red".

    Parts ("its handle is red") are not other things: they change with the region.
    """
    tokens = wording.tokenize(text)
    for color in wording.color_words(text):
        if color.name != name or color.span in spans:
            continue
        behind = [t.lower for t in tokens if t.start >= color.span.end]
        while len(behind) > 1 and behind[0] in {"and", ","} and wording.color_names(behind[1:2]):
            behind = behind[2:]
        after = behind[0] if behind else "."
        before = [t for t in tokens if t.end <= color.span.start][-2:]
        other = (
            len(before) == 2
            and before[1].lower in {"is", "are", "was", "were"}
            and before[0].is_word
            and not wording.same_noun(before[0].lower, noun)
            and not wording.is_part(before[0].lower)
        )
        if wording.may_follow_noun(after) and not other:
            return True
    return False


def _mentions(text: str, region: Region | Thing) -> list[wording.Mention]:
    return [
        mention
        for mention in wording.find_mentions(text, region.label)
        if wording.refers_to(mention, region.label, region.attributes)
    ]


def _others_share(record: Segmented, mention: wording.Mention) -> bool:
    return any(wording.refers_to(mention, other.label, other.attributes) for other in record.others)


def _candidate(
    record: Segmented, spans: list[Span], source: str, target: str, edited: Pixels
) -> Candidate:
    seed, region = record.seed, record.region
    words = wording.label_words(region.label)
    noun = " ".join(w for w in words[:-1] if not wording.color_names([w])) + f" {words[-1]}"
    noun = noun.strip()
    chosen_image, rejected_image = encode_pair(seed.image, edited)
    return Candidate(
        seed=seed,
        contrast=Contrast(
            kind=Kind.ATTRIBUTE,
            target=f"{source} {noun}",
            replacement=f"{target} {noun}",
            instruction=f"recolor the {source} {noun} {target}",
        ),
        regions=(region,),
        chosen_image=chosen_image,
        rejected_image=rejected_image,
        counterfactual=wording.replace_spans(seed.chosen, [(span, target) for span in spans]),
        params={"color": target, "from_color": source},
    )


def _weight(lab: Floats, base: Floats, source: str) -> Floats:
    """How much each pixel has the source colour, 0 to 1; [H, W]."""
    light: Floats = lab[..., 0]
    chroma: Floats = np.hypot(lab[..., 1], lab[..., 2])
    if source == "black":
        return (1 - _step(light, float(base[0]) + 0.12, float(base[0]) + 0.24)) * (
            1 - _step(chroma, 0.06, 0.1)
        )
    # Saturation, not chroma: the same surface keeps it from light to shade.
    own = float(np.hypot(base[1], base[2]) / base[0])
    saturation = chroma / np.maximum(light, 0.05)
    if source in ACHROMATIC:
        pale = 1 - _step(saturation, own + 0.04, own + 0.12)
        return pale * _step(light, float(base[0]) * 0.4, float(base[0]) * 0.55)
    angle = np.arctan2(lab[..., 2], lab[..., 1]) - np.arctan2(base[2], base[1])
    angle = np.abs((angle + np.pi) % (2 * np.pi) - np.pi)
    near: Floats = (1 - _step(angle, 0.4, 0.75)) * _step(saturation, 0.4 * own, 0.6 * own)
    return near


def _step(x: NDArray[np.floating], low: float, high: float) -> Floats:
    t = np.clip((x - low) / (high - low), 0, 1)
    smooth: Floats = (t * t * (3 - 2 * t)).astype(np.float32)
    return smooth


def _edge_weight(inside: Bools, feather_px: float) -> Floats:
    """0 outside the mask, rising to 1 over `feather_px` inside it; [H, W]."""
    padded = np.pad(inside, 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    weight: Floats = np.clip(distance / (feather_px + 0.5), 0, 1).astype(np.float32)
    return weight
