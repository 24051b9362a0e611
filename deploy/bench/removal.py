"""The models of `removal`: the paper's way against ours, per stage, on the same random weights.

The paper's way (AdaViP, as Grounded-SAM demos chain the models) takes one image, one tag, one
box, one candidate and one sentence at a time. Ours asks for all tags in one prompt, encodes a
image once for all its boxes, fills holes of one padded size together, embeds an original once for
all its candidates and a sentence once for all of them.

    PYTHONPATH=. .venv/bin/python deploy/bench/removal.py
    PYTHONPATH=. .venv/bin/python deploy/bench/removal.py --scale full --device cuda \
        --dtype bfloat16 --side 640 --peak-tflops 790
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from measure import header, scratch, spread
from random_vision import TAGS, random_models
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from pipeline.demo.scenes import write_scenes
from schemas.geometry import Box
from schemas.records import Image
from stages.backends.embed.clip import ClipSettings
from stages.backends.embed.dinov2 import Dinov2Settings
from stages.backends.embed.siglip import SiglipSettings
from stages.backends.inpaint.lama import LamaSettings
from stages.backends.locate.grounding_dino import GroundingDinoSettings
from stages.backends.locate.ram import RamSettings
from stages.backends.locate.sam import SamSettings
from stages.base import Device
from stages.pixels import decode

SENTENCES = ("A circle stands on the left.", "There is a square.", "A star is near the ring.")


class Work:
    """The images, and what would have been found in them: the same for both ways."""

    def __init__(self, folder: Path, num: int, side: int, boxes: int) -> None:
        """`num` images of `side` pixels with `boxes` boxes each."""
        write_scenes(folder, num, side=side)
        files = sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png"))[:num]
        self.images = [decode(Image(file.read_bytes())) for file in files]
        self.tags = [list(TAGS[:6])] * num
        rng = np.random.default_rng(0)
        self.boxes = [[_box(rng, image.shape) for _ in range(boxes)] for image in self.images]
        self.masks = [[_inside(box, p.shape) for box in of] for p, of in zip(
            self.images, self.boxes, strict=True)]  # fmt: skip
        self.candidates = [[_painted(p, mask) for mask in of] for p, of in zip(
            self.images, self.masks, strict=True)]  # fmt: skip


def _box(rng: np.random.Generator, shape: Sequence[int]) -> Box:
    height, width = shape[:2]
    w, h = rng.uniform(0.2, 0.4) * width, rng.uniform(0.2, 0.4) * height
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return Box(float(x), float(y), float(x + w), float(y + h))


def _inside(box: Box, shape: Sequence[int]) -> np.ndarray:
    mask = np.zeros(shape[:2], dtype=bool)
    mask[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    return mask


def _painted(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    painted = image.copy()
    painted[mask] = image.mean(axis=(0, 1)).astype(np.uint8)
    return painted


Way = Callable[[Work, Any], Any]


def _flat(nested: Sequence[Sequence[Any]]) -> list[Any]:
    return [item for inner in nested for item in inner]


def _cosines(backend: Any, work: Work, *, once: bool) -> np.ndarray:
    if once:
        images = [*work.images, *_flat(work.candidates)]
        rows = backend.embed(images)
        originals, others = rows[: len(work.images)], rows[len(work.images) :]
        counts = [len(of) for of in work.candidates]
        return np.sum(np.repeat(originals, counts, axis=0) * others, axis=1)
    values = []
    for image, of_image in zip(work.images, work.candidates, strict=True):
        for candidate in of_image:
            first, second = backend.embed([image])[0], backend.embed([candidate])[0]
            values.append(np.sum(first * second))
    return np.array(values)


def _clip(backend: Any, work: Work, *, once: bool) -> np.ndarray:
    if once:
        images = backend.embed_images(_flat(work.candidates))
        return (images @ backend.embed_texts(list(SENTENCES)).T).sum(axis=1)
    return np.array([
        sum(float(backend.embed_images([c])[0] @ backend.embed_texts([s])[0]) for s in SENTENCES)
        for c in _flat(work.candidates)
    ])  # fmt: skip


STAGES: dict[str, tuple[Way, Way]] = {
    "tagger": (
        lambda w, b: [b.tag([p])[0] for p in w.images],
        lambda w, b: b.tag(w.images),
    ),
    "detector": (
        lambda w, b: [
            _flat([b.detect([p], [[tag]])[0] for tag in tags])
            for p, tags in zip(w.images, w.tags, strict=True)
        ],
        lambda w, b: b.detect(w.images, w.tags),
    ),
    "segmenter": (
        lambda w, b: [
            [b.segment([p], [[box]])[0][0] for box in of]
            for p, of in zip(w.images, w.boxes, strict=True)
        ],
        lambda w, b: b.segment(w.images, w.boxes),
    ),
    "inpainter": (
        lambda w, b: [
            b.fill([p], [m], [np.zeros_like(m)])[0]
            for p, of in zip(w.images, w.masks, strict=True)
            for m in of
        ],
        lambda w, b: b.fill(
            [p for p, of in zip(w.images, w.masks, strict=True) for _ in of],
            _flat(w.masks),
            [np.zeros_like(m) for m in _flat(w.masks)],
        ),
    ),
    "appearance": (
        lambda w, b: _cosines(b, w, once=False),
        lambda w, b: _cosines(b, w, once=True),
    ),
    "detail": (
        lambda w, b: _cosines(b, w, once=False),
        lambda w, b: _cosines(b, w, once=True),
    ),
    "scorer": (
        lambda w, b: _clip(b, w, once=False),
        lambda w, b: _clip(b, w, once=True),
    ),
}
"""Per stage the paper's way and ours."""


def difference(stage: str, plain: Any, ours: Any) -> str:
    """How far the results of the two ways are apart."""
    match stage:
        case "tagger":
            pairs = zip(_flat(plain), _flat(ours), strict=True)
            return f"{max(abs(a[1] - b[1]) for a, b in pairs):.0e} in score"
        case "detector":
            lost = sum(abs(len(a) - len(b)) for a, b in zip(plain, ours, strict=True))
            pairs = zip(_flat(plain), _flat(ours), strict=False)
            apart = max((np.abs(np.subtract(a.box, b.box)).max() for a, b in pairs), default=0.0)
            return f"{lost} boxes, {apart:.0e} px; one image at a time, same prompts"
        case "segmenter":
            share = [np.mean(a != b) for a, b in zip(_flat(plain), _flat(ours), strict=True)]
            return f"{max(share):.1%} of a mask's pixels"
        case "inpainter":
            worst = [np.abs(a.astype(int) - b).max() for a, b in zip(plain, ours, strict=True)]
            return f"{max(worst)} of 255"
        case _:
            return f"{np.abs(plain - ours).max():.0e}"


def backends(models: dict[str, Any]) -> dict[str, Any]:
    """The backend of every stage."""
    return {
        "tagger": RamSettings(**models["ram"]),
        "detector": GroundingDinoSettings(model=str(models["grounding_dino"])),
        "segmenter": SamSettings(model=str(models["sam"])),
        "inpainter": LamaSettings(model=str(models["lama"])),
        "appearance": SiglipSettings(model=str(models["siglip"])),
        "detail": Dinov2Settings(model=str(models["dinov2"])),
        "scorer": ClipSettings(model=str(models["clip"])),
    }


def timed(way: Way, work: Work, backend: Any, device: Device) -> tuple[float, float, Any]:
    """Seconds, peak GPU memory in GiB (0 on the CPU), and the result."""
    cuda = device.name.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = monotonic()
    result = way(work, backend)
    if cuda:
        torch.cuda.synchronize()
    memory = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return monotonic() - start, memory, result


def flops(way: Way, work: Work, backend: Any) -> float:
    """Floating-point operations of one pass, as torch counts its matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        way(work, backend)
    return float(counter.get_total_flops())


def busy_share(way: Way, work: Work, backend: Any) -> float:
    """Share of a pass in which the GPU has something to do: what its kernels and copies cover."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        start = monotonic()
        way(work, backend)
        torch.cuda.synchronize()
        seconds = monotonic() - start
    events = seen.profiler.kineto_results.events()
    on_gpu = [e for e in events if e.device_type() == DeviceType.CUDA]
    return (
        _covered([(e.start_ns(), e.start_ns() + e.duration_ns()) for e in on_gpu]) / seconds / 1e9
    )


def _covered(spans: Sequence[tuple[int, int]]) -> int:
    """Length of the union of the spans."""
    total, end = 0, 0
    for first, last in sorted(spans):
        total += max(0, last - max(first, end))
        end = max(end, last)
    return total


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", choices=["tiny", "full"], default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--boxes", type=int, default=4, help="boxes (candidates) of each image")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--peak-tflops", type=float, help="of the chip in this type, for the share")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = Device(args.device, args.dtype)
    print(header("The models of removal: the paper's way against ours"))
    print(
        f"{args.scale} models with random weights on {args.device}, {args.dtype}; {args.images} "
        f"images of {args.side} px, 6 tags, {args.boxes} boxes, {len(SENTENCES)} sentences each; "
        f"ms an image, median of {args.runs} (range), after one pass that is not counted.\n"
    )
    print(
        "| stage | paper's way | ours | ratio | peak GiB | GPU busy | share of peak "
        "| results differ by |"
    )
    print("|---|---|---|---|---|---|---|---|")
    totals = [0.0, 0.0]
    with scratch() as folder:
        work = Work(folder / "images", args.images, args.side, args.boxes)
        made = backends(random_models(folder / "models", full=args.scale == "full"))
        for stage in args.stages:
            backend = made[stage].load(device)
            row, times = _row(stage, work, backend, device, args)
            backend.close()
            totals = [total + time for total, time in zip(totals, times, strict=True)]
            print(row, flush=True)
    plain, ours = (1000 * total / args.images for total in totals)
    print(f"| all | {plain:.0f} | {ours:.0f} | {plain / ours:.1f}x | | | | |")


def _row(
    stage: str, work: Work, backend: Any, device: Device, args: argparse.Namespace
) -> tuple[str, tuple[float, float]]:
    plain_way, our_way = STAGES[stage]
    runs: dict[str, list[float]] = {"plain": [], "ours": []}
    memory = 0.0
    results: dict[str, Any] = {}
    for run in range(args.runs + 1):
        # In turns, so that a machine that slows down slows both.
        for name, way in (("plain", plain_way), ("ours", our_way)):
            seconds, peak, results[name] = timed(way, work, backend, device)
            if run:
                runs[name].append(seconds)
            memory = max(memory, peak if name == "ours" else 0.0)
    plain, ours = (statistics.median(values) for values in runs.values())
    if stage == "detector":
        # One tag a prompt finds other boxes: what may not differ is an image alone.
        results["plain"] = [
            found
            for image, tags in zip(work.images, work.tags, strict=True)
            for found in backend.detect([image], [tags])
        ]
    busy = f"{busy_share(our_way, work, backend):.0%}" if device.name.startswith("cuda") else "-"
    share = "-"
    if args.peak_tflops:
        share = f"{flops(our_way, work, backend) / ours / args.peak_tflops / 1e12:.0%}"
    per = [spread([1000 * s / args.images for s in values], 0) for values in runs.values()]
    text = (
        f"| {stage} | {per[0]} | {per[1]} | {plain / ours:.1f}x | "
        f"{f'{memory:.1f}' if memory else '-'} | {busy} | {share} | "
        f"{difference(stage, results['plain'], results['ours'])} |"
    )
    return text, (plain, ours)


if __name__ == "__main__":
    main()
