"""An editor that does as it is told to fail, on images whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from schemas.geometry import Box
from schemas.records import Contrast, Image, Kind, Region, Seed, Span
from schemas.texts import Hallucination, PlannedEdit
from stages.base import CpuBackend
from stages.edit.canvas import Size
from stages.pixels import encode_jpeg
from tests.stages.edit.test_registration import moved

RED, BLUE, GREEN = (205, 35, 40), (40, 85, 200), (45, 150, 65)
SIZES = [Size(512, 512), Size(640, 480), Size(480, 640), Size(768, 352)]


def ground(seed, height, width):
    """Texture at several scales, neither red nor blue."""
    rng = np.random.default_rng(seed)
    layers = [
        s * cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), s) for s in (1, 4, 16)
    ]
    texture = sum(layers) / np.std(sum(layers))
    return np.clip(
        np.array([150, 140, 110]) + 22 * texture[..., None] * np.array([1, 0.9, 0.8]), 0, 255
    ).astype(np.uint8)


def scene(seed=0, height=420, width=600):
    """(pixels, box of a red disc, box of a blue disc)."""
    pixels = ground(seed, height, width)
    radius = height // 8
    boxes = []
    for color, (x, y) in ((RED, (width // 3, height // 2)), (BLUE, (3 * width // 4, height // 3))):
        cv2.circle(pixels, (x, y), radius, color, cv2.FILLED, cv2.LINE_AA)
        boxes.append(Box(x - radius, y - radius, x + radius + 1, y + radius + 1))
    return pixels, *boxes


def plan(pixels, *regions, seed_id="s", kind=Kind.ATTRIBUTE, instruction="make the red disc green"):
    height, width = pixels.shape[:2]
    image = encode_jpeg(pixels, "photo.jpg")
    seed = Seed(
        seed_id, 7, Image(image.bytes, "photo.jpg"), width, height, "What colour is the disc?",
        "The disc is red.", "The disc is green.", regions, "test:1", None,
    )  # fmt: skip
    return PlannedEdit(
        seed=seed,
        hallucination=Hallucination.ATTRIBUTE,
        hallucinated=(Span(12, 17),),
        contrast=Contrast(kind, "red disc", "green disc", instruction),
        counterfactual="The disc is green.",
        regions=regions,
    )


def red_region(box):
    return Region("red disc", box)


def is_color(pixels, color, within=70):
    return np.abs(pixels.astype(int) - color).sum(axis=2) < within


def recolored(pixels, old, new):
    """The disc of a colour in another; with its soft rim."""
    disc = cv2.dilate(is_color(pixels, old).astype(np.uint8), np.ones((5, 5))) > 0
    out = pixels.copy()
    out[disc] = new
    return out


@dataclass
class Planted(CpuBackend):
    name = "planted"

    """Does to an image what the instruction and the number of its try say.

    `deeds` are done one after the other, the last for ever; each takes an image on its canvas.
    """

    deeds: list[Any]
    max_tokens: int = 20
    asked: list[tuple[tuple[int, ...], str, tuple[int, ...]]] = field(default_factory=list)
    calls: int = 0
    tries: dict[bytes, int] = field(default_factory=dict)

    def sizes(self, max_elongation):
        return [s for s in SIZES if max(s) <= max_elongation * min(s)]

    def count_tokens(self, instructions):
        return [len(text.split()) for text in instructions]

    def edit(self, images, instructions, seeds):
        self.calls += 1
        made = []
        for image, text, own in zip(images, instructions, seeds, strict=True):
            self.asked.append((image.shape, text, tuple(own)))
            row = []
            for _ in own:
                number = self.tries.get(image.tobytes(), 0)
                self.tries[image.tobytes()] = number + 1
                row.append(self.deeds[min(number, len(self.deeds) - 1)](image))
            made.append(row)
        return made


def softened(pixels, seed=5):
    """As out of a decoder: softer, tinted, noisy."""
    noise = np.random.default_rng(seed).normal(0, 2, pixels.shape)
    soft = cv2.GaussianBlur(pixels, (0, 0), 0.8).astype(float) + noise + [6, -4, 3]
    return soft.clip(0, 255).astype(np.uint8)


def does_it(pixels):
    return softened(recolored(pixels, RED, GREEN))


def moves_it(movement):
    """Does it, and moves the image on the way."""
    return lambda pixels: moved(does_it(pixels), movement)


def does_nothing(pixels):
    return softened(pixels)


def does_the_wrong_thing(pixels):
    return softened(recolored(pixels, BLUE, GREEN))


def does_both(pixels):
    return softened(recolored(recolored(pixels, BLUE, GREEN), RED, GREEN))


def darkens_it(pixels):
    """A change that is seen, but not much of one."""
    return softened(recolored(pixels, RED, (160, 20, 25)))


def tints_all(pixels):
    """Does it, at dusk."""
    return np.clip(does_it(pixels).astype(int) - [66, 56, 43], 0, 255).astype(np.uint8)


def paints_anew(pixels):
    """Does it, and draws all the ground again, much like the old one."""
    height, width = pixels.shape[:2]
    keep = is_color(pixels, RED) | is_color(pixels, BLUE)
    other = np.where(keep[..., None], pixels, ground(99, height, width))
    return recolored(other, RED, GREEN)


def paints_half_anew(pixels):
    """Does it, and makes stripes of a little over half of the image, dark and light."""
    out = does_it(pixels).astype(int)
    height, width = pixels.shape[:2]
    stripes = np.where(np.arange(height) % 80 < 40, 60, -60)[:, None, None]
    out[:, : int(width * 0.55)] += stripes
    return out.clip(0, 255).astype(np.uint8)
