"""Pairs/s and memory of a training step against the straightforward way, loss by loss.

The straightforward way is that of the papers' code: every view a forward of its own, pixels and
all, with the logits of the whole row in float32. Both ways do the same step: reference with the
adapters off, policy, loss, gradient, AdamW; with gradient checkpointing, on random weights.

    python deploy/bench/training_step.py                          # a small model, on the CPU
    python deploy/bench/training_step.py --size 7b --device cuda  # LLaVA-Interleave-7B's sizes
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from time import perf_counter, process_time

import numpy as np
import PIL.Image
import torch
from measure import header, spread
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.profiler import ProfilerActivity, profile
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from schemas.records import Contrast, Image, Kind, Span
from trainer.data.batches import Batch, BatchBuilder
from trainer.data.rows import Row
from trainer.families import Family, family_of
from trainer.model.logprobs import ViewLogProbs
from trainer.model.reference import adapters_off
from trainer.settings import Source, load_settings

MIB = 2**20
LOSSES = ("dpo", "adavip", "mdpo", "ovip", "symmpo", "svco", "icvco")

SIZES = {
    # Text: hidden, intermediate, layers, heads, vocabulary. Tower: hidden, intermediate, layers,
    # heads, pixels. 256 and 729 tokens an image.
    "small": ((256, 688, 4, 4, 32_000), (128, 256, 6, 2, 224)),
    "7b": ((4096, 11_008, 32, 32, 152_000), (1152, 4304, 27, 16, 384)),
}
WORDS = (
    "a",
    "the",
    "red",
    "blue",
    "large",
    "small",
    "cat",
    "dog",
    "bench",
    "street",
    "under",
    "on",
)


def sentence(generator: np.random.Generator, number: int) -> str:
    """Some words."""
    return " ".join(generator.choice(WORDS, number))


def make_rows(num: int, side: int) -> list[Row]:
    """Pairs as recipes make them: texts of two or three sentences, one phrase of them changed."""
    generator = np.random.Generator(np.random.PCG64(0))

    def photo() -> Image:
        array = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        sink = io.BytesIO()
        PIL.Image.fromarray(array).save(sink, "JPEG")
        return Image(sink.getvalue())

    rows = []
    for number in range(num):
        head, tail = (sentence(generator, int(generator.integers(4, 9))) for _ in range(2))
        changed = [sentence(generator, 2) for _ in range(2)]
        texts = [f"{head} {phrase} {tail}" for phrase in changed]
        spans = [(Span(len(head) + 1, len(head) + 1 + len(phrase)),) for phrase in changed]
        rows.append(
            Row(
                pair_id=f"pair-{number}",
                seed_id=f"seed-{number}",
                chosen_image=photo(),
                rejected_image=photo(),
                prompt=sentence(generator, 8),
                chosen=texts[0],
                rejected=sentence(generator, 14),
                counterfactual=texts[1],
                chosen_spans=spans[0],
                counterfactual_spans=spans[1],
                rejected_spans=None,
                contrast=Contrast(Kind.ATTRIBUTE, "this", "that", "this to that"),
            )
        )
    return rows


def make_family(size: str) -> Family:
    """A processor of LLaVA-Interleave's kind; its tokens are characters."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|im_start|>", "<|im_end|>", "<image>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(alphabet)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=special
    )
    (hidden, inner, layers, heads, words), (width, mlp, depth, vision_heads, side) = SIZES[size]
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=width,
            intermediate_size=mlp,
            num_hidden_layers=depth,
            num_attention_heads=vision_heads,
            image_size=side,
            patch_size=14,
            vision_use_head=False,
        ).to_dict(),
        text_config=Qwen2Config(
            vocab_size=words,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=8192,
        ).to_dict(),
        image_token_index=vocabulary["<image>"],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    template = (
        "{% for message in messages %}{{ '<|im_start|>user\n' }}"
        "{% for part in message['content'] %}"
        "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{{ '<|im_start|>assistant\n' }}"
    )
    processor = LlavaProcessor(
        SiglipImageProcessorPil(size={"height": side, "width": side}),
        fast,
        patch_size=14,
        vision_feature_select_strategy="full",
        chat_template=template,
    )
    return family_of(config)(size, config, processor, vocabulary["<|im_end|>"])


def make_policy(config: object, device: str, dtype: torch.dtype) -> torch.nn.Module:
    """A model of the configuration with adapters, both random."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlavaForConditionalGeneration(config)
    torch.set_default_dtype(torch.float32)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    lora = LoraConfig(
        r=64, target_modules=family_of(config).adapter_targets(), init_lora_weights=False
    )
    return get_peft_model(model, lora).train()


def plain_table(policy: torch.nn.Module, batch: Batch) -> dict[object, torch.Tensor]:
    """Every view its own forward, with all logits."""
    table = {}
    first = np.cumsum([0, *(image.entries["pixel_values"] for image in batch.images)])
    device = batch.device
    for number, view in enumerate(batch.views):
        cells = [row * len(batch.views) + number for row in range(len(batch))]
        rows = [next(p for p in batch.packed if c in p.log_probs.cells) for c in cells]
        width = max(len(p.ids) for p in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        weights = torch.zeros(len(rows), width - 1)
        for place, (p, cell) in enumerate(zip(rows, cells, strict=True)):
            ids[place, : len(p.ids)] = torch.from_numpy(p.ids)
            mask[place, : len(p.ids)] = 1
            here = p.log_probs.cells == cell
            reads = p.log_probs.reads[p.log_probs.terms[here]]
            weights[place, reads] = torch.from_numpy(p.log_probs.weights[here])
        images = [i for p in rows for i in p.images]
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
        if images:
            pixels = batch.pixels["pixel_values"]
            inputs["pixel_values"] = torch.cat([pixels[first[i] : first[i + 1]] for i in images])
        logits = policy(**inputs, use_cache=False).logits[:, :-1].float()
        targets = inputs["input_ids"][:, 1:, None]
        log_probs = logits.log_softmax(-1).gather(2, targets)[..., 0]
        table[view] = (log_probs * weights.to(device)).sum(1)
    return table


def measure(args: argparse.Namespace) -> dict[str, object]:
    """Steps of one loss in one way: seconds, memory, losses."""
    loss = load_settings(Source(preset=args.loss)).loss
    family = make_family(args.size)
    dtype = torch.bfloat16 if args.size == "7b" else torch.float32
    policy = make_policy(family.config, args.device, dtype)
    ours = args.way == "ours"
    build = BatchBuilder(family, loss.views, 0, share_prompts=ours)
    module = ViewLogProbs(policy) if ours else lambda batch: plain_table(policy, batch)
    trainable = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-4)
    num = args.micro_batch
    rows = make_rows(num * args.steps, family.config.vision_config.image_size)
    batches = [build(rows[n : n + num], 0).to(args.device) for n in range(0, len(rows), num)]
    reference = adapters_off(module, policy)
    seconds, losses = [], []
    # On a CPU its own time, in one thread: other work may share the machine.
    clock = perf_counter if args.device == "cuda" else process_time

    def step(batch: Batch) -> None:
        held = reference(batch)
        output = loss(module(batch), held)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(output.loss.detach()))

    for batch in batches[:-1]:
        synchronise(args.device)
        started = clock()
        step(batch)
        synchronise(args.device)
        seconds.append(clock() - started)
    top = peak_of(lambda: step(batches[-1]), args.device)
    tokens = sum(len(p.ids) for p in batches[0].packed) / num
    heads = sum(len(p.log_probs.reads) for p in batches[0].packed) / num
    whole = sum(len(way) for p in batches[0].packed for _, way in p.ways) / num
    return {
        "seconds": seconds[1:],
        "losses": losses,
        "peak": top,
        "views": len(loss.views),
        "tokens": tokens,
        "head": heads if ours else whole,
    }


def peak_of(work: Callable[[], None], device: str) -> float:
    """MiB of tensors that the work holds at most, beyond those that were there."""
    if device == "cuda":
        resting = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return (torch.cuda.max_memory_allocated() - resting) / MIB
    # Not the process's size: on a CPU that is mostly what the allocator does not give back.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = seen.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(accumulate(size for _, size in changes)) / MIB


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def child(args: argparse.Namespace, loss: str, way: str) -> dict[str, object]:
    """A measurement in a process of its own, so that none inherits another's memory."""
    command = [sys.executable, __file__, "--loss", loss, "--way", way, "--size", args.size]
    command += ["--device", args.device, "--micro-batch", str(args.micro_batch)]
    command += ["--steps", str(args.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1][:120]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--losses", nargs="+", default=LOSSES)
    parser.add_argument("--loss")
    parser.add_argument("--way", choices=("ours", "plain"))
    args = parser.parse_args()
    if args.loss:
        torch.set_num_threads(1)
        print(json.dumps(measure(args)))
        return
    report(args)


def report(args: argparse.Namespace) -> None:
    """All losses, both ways, one after the other."""
    print(header("A training step against the straightforward way"))
    device = torch.cuda.get_device_name() if args.device == "cuda" else "one thread, its own time"
    print(
        f"torch {torch.__version__}; {args.size} model on {args.device} ({device}), "
        f"{args.micro_batch} pairs a micro-batch, {args.steps - 2} steps after the first, "
        f"{args.rounds} rounds. Memory is what a step's tensors take at most, beyond weights, "
        "adapters and optimizer.\n"
    )
    print(
        "| loss | views | tokens a pair, plain | ours | head positions, plain | ours "
        "| pairs/s, plain | ours | ratio | peak MiB, plain | ours | ratio | loss differs by |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for loss in args.losses:
        rounds = [
            (child(args, loss, "plain"), child(args, loss, "ours")) for _ in range(args.rounds)
        ]
        print(line(args, loss, rounds), flush=True)


def line(args: argparse.Namespace, loss: str, rounds: list[tuple[dict, dict]]) -> str:
    """One line of the table."""
    errors = [part["error"] for both in rounds for part in both if "error" in part]
    if errors:
        return f"| {loss} | {errors[0]} |"
    rates = [[args.micro_batch / s for r in rounds for s in r[way]["seconds"]] for way in (0, 1)]
    ratios = [
        statistics.median(plain["seconds"]) / statistics.median(ours["seconds"])
        for plain, ours in rounds
    ]
    peaks = [[r[way]["peak"] for r in rounds] for way in (0, 1)]
    plain, ours = rounds[0]
    differs = max(
        abs(a - b) for p, o in rounds for a, b in zip(p["losses"], o["losses"], strict=True)
    )
    memory_ratio = statistics.median(peaks[1]) / statistics.median(peaks[0])
    return (
        f"| {loss} | {plain['views']} | {plain['tokens']:.0f} | {ours['tokens']:.0f} "
        f"| {plain['head']:.0f} | {ours['head']:.0f} "
        f"| {spread(rates[0], 2)} | {spread(rates[1], 2)} | {spread(ratios, 2)} "
        f"| {spread(peaks[0], 0)} | {spread(peaks[1], 0)} | {memory_ratio:.2f} | {differs:.1e} |"
    )


if __name__ == "__main__":
    main()
