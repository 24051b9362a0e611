"""Diffusion: the papers' way (one request at a time) against ours, same weights, same seeds.

Loss-free ways first, then options that change images. On a GPU:

    python deploy/bench/diffusion.py --device cuda --scale full --family flux --runs 3
"""

from __future__ import annotations

import argparse
import gc
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import monotonic, process_time
from typing import Any

import diffusers
import numpy as np
import PIL.Image
import psutil
import torch
import transformers
from measure import header, quiet, spread
from random_pipelines import FULL, SMALL, random_pipeline
from torch.utils.flop_counter import FlopCounterMode

from stages.backends.diffusion.flux import FluxSettings
from stages.backends.diffusion.flux_model import FluxModel
from stages.backends.diffusion.pipeline import prepared
from stages.backends.diffusion.qwen_edit import QwenImageEditPlusSettings, QwenImageEditSettings
from stages.backends.diffusion.qwen_edit_model import QwenImageEditModel, QwenImageEditPlusModel
from stages.backends.diffusion.settings import FirstBlock, StepCache, TaylorSeer
from stages.base import Device
from stages.edit.canvas import Size
from stages.pixels import Pixels

PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0}
"""Dense bf16 teraflop/s by what the device's name holds."""
GIB = 2**30
BACKENDS = {
    "flux": (FluxSettings, FluxModel),
    "qwen_edit": (QwenImageEditSettings, QwenImageEditModel),
    "qwen_edit_plus": (QwenImageEditPlusSettings, QwenImageEditPlusModel),
}


@dataclass(frozen=True)
class Load:
    """What is to be made: every request has a text (and an image) and seeds of its own."""

    texts: list[str]
    images: list[Pixels]
    seeds: list[list[int]]
    size: Size

    @property
    def num_images(self) -> int:
        """Images in all."""
        return sum(len(own) for own in self.seeds)


@dataclass(frozen=True)
class Result:
    """What one way came to."""

    rates: list[float]
    peak_gib: float
    images: list[Pixels]


def load(args: argparse.Namespace) -> Load:
    size = Size(384, 384) if args.family == "flux" else Size(1184, 896)
    rng = np.random.default_rng(0)
    texts = [f"a blue bus beside a tall tree, seen from place {i}" for i in range(args.requests)]
    images = [
        np.kron(rng.integers(0, 255, (28, 37, 3)), np.ones((32, 32, 1))).astype(np.uint8)
        for _ in texts
    ]
    seeds = [[100 * i + k for k in range(args.candidates)] for i in range(args.requests)]
    return Load(texts, images, seeds, size)


def papers_way(pipe: Any, work: Load, settings: dict[str, Any]) -> list[Pixels]:
    """One call an image; the pipeline reads the words each time."""
    made = []
    for text, image, own in zip(work.texts, work.images, work.seeds, strict=True):
        for seed in own:
            shown = {} if "guidance_scale" in settings else {"image": PIL.Image.fromarray(image)}
            drawn = pipe(
                prompt=text,
                width=work.size.width,
                height=work.size.height,
                generator=torch.Generator("cpu").manual_seed(seed),
                **shown,
                **settings,
            ).images[0]
            made.append(np.asarray(drawn))
    return made


def our_way(backend: Any, work: Load) -> list[Pixels]:
    """As the stages ask for it: an edit with its candidates, a description for each image."""
    if isinstance(backend, FluxModel):
        texts = [t for t, own in zip(work.texts, work.seeds, strict=True) for _ in own]
        seeds = [seed for own in work.seeds for seed in own]
        return backend.synthesize(texts, seeds, work.size)
    made = backend.edit(work.images, work.texts, work.seeds)
    return [image for own in made for image in own]


def measured(make: Callable[[], list[Pixels]], args: argparse.Namespace) -> Result:
    """Rates of the runs after one that warms up, and the peak of memory in them."""
    on_gpu = args.device.startswith("cuda")
    images = make()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    # Of one thread on the CPU, its own seconds: other processes then matter little.
    clock = monotonic if on_gpu else process_time
    rates = []
    for _ in range(args.runs):
        started = clock()
        make()  # its images are on the CPU when it returns
        rates.append(len(images) / (clock() - started))
    peak = torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss
    return Result(rates, peak / GIB, images)


def flops_a_image(make: Callable[[], list[Pixels]]) -> float:
    counter = FlopCounterMode(display=False)
    with counter:
        num = len(make())
    return counter.get_total_flops() / num


@contextmanager
def step_cache(pipe: Any, backend: Any, how: StepCache) -> Iterator[Any]:
    """The backend with a step cache, for a while."""
    device = Device(str(pipe.device))
    pipeline = prepared(pipe, device, step_cache=how)
    cached = type(backend)(replace(backend.settings, step_cache=how), device, pipeline)
    try:
        yield cached
    finally:
        pipe.transformer.disable_cache()


def inexact_ways(
    args: argparse.Namespace, pipe: Any, backend: Any, work: Load
) -> Iterator[tuple[str, Result]]:
    """Options that change images, but for quantised weights, which cannot be taken back."""
    for name, how in (
        ("TaylorSeer, interval 3*", TaylorSeer("taylor_seer", interval=3, warm_up=2)),
        ("first-block cache, 0.1*", FirstBlock("first_block", threshold=0.1)),
    ):
        with step_cache(pipe, backend, how) as cached:
            yield name, measured(lambda cached=cached: our_way(cached, work), args)
    usual = backend.settings
    one_pass = {} if args.family == "flux" else {"true_cfg_scale": 1.0}
    backend.settings = replace(usual, steps=args.few_steps, **one_pass)
    yield f"{args.few_steps} steps, one pass*", measured(lambda: our_way(backend, work), args)
    backend.settings = usual


def ways(args: argparse.Namespace, pipe: Any, work: Load) -> Iterator[tuple[str, Result]]:
    """Name and result of every way, the papers' first."""
    device = Device(args.device, "bfloat16" if args.device.startswith("cuda") else "float32")
    of_family, model = BACKENDS[args.family]
    own = of_family(model="random weights", steps=args.steps, rows=1)
    settings: dict[str, Any] = {"num_inference_steps": args.steps}
    if args.family == "flux":
        settings["guidance_scale"] = own.guidance
    else:
        settings |= {"negative_prompt": " ", "true_cfg_scale": own.true_cfg_scale}
    pipe.set_progress_bar_config(disable=True)
    if args.device.startswith("cuda"):
        pipe.enable_model_cpu_offload()
        yield (
            "one at a time, models moved",
            measured(lambda: papers_way(pipe, work, settings), args),
        )
        pipe.remove_all_hooks()
    pipe.to(args.device)
    yield "one at a time", measured(lambda: papers_way(pipe, work, settings), args)
    backend = model(own, device, prepared(pipe, device))
    yield "words read once", measured(lambda: our_way(backend, work), args)
    backend.settings = replace(own, rows=args.rows)
    yield f"and {args.rows} in a call", measured(lambda: our_way(backend, work), args)
    if not args.exact:
        yield from inexact_ways(args, pipe, backend, work)
    if args.compile:
        backend._pipeline = prepared(pipe, replace(device, compile=True))  # noqa: SLF001
        yield f"{args.rows} in a call, compiled", measured(lambda: our_way(backend, work), args)
    if args.weights:
        pipe.to("cpu")  # what is measured next has the GPU's memory to itself
    yield from quantised_ways(args, backend, work)


def fresh_pipeline(args: argparse.Namespace) -> Any:
    """The pipeline of random weights that are always the same."""
    dtype = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
    dims = FULL if args.scale == "full" else SMALL
    return random_pipeline(args.family, dims, args.device, dtype)


def quantised_ways(
    args: argparse.Namespace, backend: Any, work: Load
) -> Iterator[tuple[str, Result]]:
    """Fewer bits for the weights: each time of a new pipeline, for there is no way back."""
    device = Device(args.device, "bfloat16" if args.device.startswith("cuda") else "float32")
    for weights in args.weights:
        backend._pipeline = None  # noqa: SLF001  # its memory is free before there is another
        gc.collect()
        backend._pipeline = prepared(  # noqa: SLF001
            fresh_pipeline(args), replace(device, compile=args.compile), weights=weights
        )
        compiled = ", compiled" if args.compile else ""
        yield f"{weights} weights{compiled}*", measured(lambda: our_way(backend, work), args)


def difference(first: Sequence[Pixels], other: Sequence[Pixels]) -> tuple[float, int, float]:
    """Mean and largest difference in levels, and the PSNR in dB, over all images."""
    apart = np.stack(first).astype(int) - np.stack(other)
    error = float((apart.astype(float) ** 2).mean())
    psnr = float("inf") if error == 0 else 10 * np.log10(255**2 / error)
    return float(np.abs(apart).mean()), int(np.abs(apart).max()), psnr


def peak_tflops(args: argparse.Namespace) -> float | None:
    if args.peak_tflops:
        return float(args.peak_tflops)
    if not args.device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def report(args: argparse.Namespace) -> None:
    on_gpu = args.device.startswith("cuda")
    pipe = fresh_pipeline(args)
    num_weights = sum(p.numel() for p in pipe.transformer.parameters())
    work = load(args)
    where = (
        torch.cuda.get_device_name() if on_gpu else "the CPU, one thread (rates by its own seconds)"
    )
    print(
        f"`{args.family}`, {args.scale} size ({num_weights / 1e6:,.1f} million weights in the "
        f"transformer), random, on {where}: {work.num_images} images of {work.size} for "
        f"{len(work.texts)} requests, {args.steps} steps, {args.runs} runs after one that warms "
        f"up. torch {torch.__version__}, diffusers {diffusers.__version__}, transformers "
        f"{transformers.__version__}.\n"
    )
    print("| way | images/s | ratio | memory GiB | of bf16 peak | mean | max | PSNR dB |")
    print("|---|---|---|---|---|---|---|---|")
    backend = BACKENDS[args.family](model="random weights", steps=args.steps, rows=1)
    backend._pipeline = prepared(pipe, Device(args.device))  # noqa: SLF001
    one = replace(work, seeds=[own[:1] for own in work.seeds[:1]])
    one = replace(one, texts=work.texts[:1], images=work.images[:1])
    flops = flops_a_image(lambda: our_way(backend, one))
    peak = peak_tflops(args)
    base: Result | None = None
    for name, result in ways(args, pipe, work):
        base = base or result
        rate = statistics.median(result.rates)
        exact = not name.endswith("*")
        share = f"{rate * flops / peak / 1e12:.1%}" if peak and exact else "-"
        mean, most, psnr = difference(base.images, result.images)
        print(
            f"| {name} | {spread(result.rates, 3)} | {rate / statistics.median(base.rates):.2f} | "
            f"{result.peak_gib:.1f} | {share} | {mean:.3f} | {most} | {psnr:.1f} |",
            flush=True,
        )
    print(
        f"\n{flops / 1e12:.3g} teraflop an image. Differences are to the first way, in levels of "
        "255. Ways with a star change images; with random weights their differences say that "
        "they do something, not how good they are."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", choices=sorted(BACKENDS), default="flux")
    parser.add_argument("--scale", choices=["small", "full"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=2, help="images of each request")
    parser.add_argument("--rows", type=int, default=4, help="images in one call")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--few-steps", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--exact", action="store_true", help="leave out what changes images")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--weights", nargs="*", default=[], choices=["int8", "fp8"])
    parser.add_argument("--peak-tflops", type=float, default=0.0)
    return parser.parse_args(arguments)


def main() -> None:
    args = parse()
    quiet()
    torch.set_num_threads(1 if args.device == "cpu" else torch.get_num_threads())
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
    print(header("Diffusion: one request at a time against batches"))
    report(args)


if __name__ == "__main__":
    main()
