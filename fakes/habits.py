"""A small world with habits, and a tiny LLaVA-Interleave that grows up in it.

The world: one or two shapes on a background, and four kinds of question. Shapes have habits: the
star is usually green, usually on the right, usually as many, and usually beside the same other
shape. `habit` is the probability of the usual. A model that sees only such scenes learns to answer
from the question alone where it can: the language prior that preference losses fight.

For `learning.py` and the trainer's tests. Uses the pipeline's scenes and pixels; knows no loss.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from pipeline.demo.backgrounds import Background
from pipeline.demo.scenes import COLORS, SHAPES, Scene, paint, scene_row
from pipeline.demo.sentences import Thing
from schemas.ids import row_seed
from stages.edit.oklab import COLOR_NAMES
from stages.pixels import encode_jpeg
from trainer.families import ANCHORS, Family, load_family

SIDE = 96
"""Pixels of a scene and of the model's image."""

KINDS = ("color", "count", "side", "presence")
"""Kinds of question; `RECIPES` makes near misses for them in this order."""

RECIPES = {"color": "recolor-cpu", "count": "count-cpu", "side": "flip", "presence": "removal-cpu"}
"""Which recipe changes the answer to which kind of question."""

USUAL_COLOR = dict(zip(SHAPES, COLORS, strict=False))
USUAL_COUNT = {shape: 1 + k % 3 for k, shape in enumerate(SHAPES)}
USUAL_SIDE = {shape: ("left", "right")[k % 2] for k, shape in enumerate(SHAPES)}
USUAL_MATE = {shape: SHAPES[(k + 1) % len(SHAPES)] for k, shape in enumerate(SHAPES)}

NUMBERS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Asked:
    """A scene and the question that was asked about it."""

    kind: str
    """One of `KINDS`."""
    usual: bool
    """Whether the answer is the one that the habit would give."""
    habitual: str
    """The answer of one who does not look."""
    scene: Scene
    """Image, question, true answer, and the habit's answer (or another wrong one)."""


def asked(seed: int, index: int, habit: float, kind: str) -> Asked:
    """The scene number `index` of a seed; `habit` is the probability of the usual."""
    rng = np.random.default_rng(row_seed(seed, f"{kind}-{index}", "world"))
    follows = bool(rng.random() < habit)
    shape, other = (str(s) for s in rng.permutation(SHAPES)[:2])
    hues = [str(h) for h in rng.permutation(list(COLORS))]
    hue = USUAL_COLOR[shape] if rng.random() < habit else hues[0]
    second = next(h for h in hues if h != hue)
    side, count = (None, None), 1
    if kind == "color":
        hue = USUAL_COLOR[shape] if follows else hues[0]
        second = next(h for h in hues if h != hue)
        question = f"What colour is the {shape}?"
        said = {c: f"The {shape} is {c}." for c in COLORS}
        truth, habitual = hue, USUAL_COLOR[shape]
    elif kind == "count":
        count = USUAL_COUNT[shape] if follows else int(rng.integers(1, 5))
        question = f"How many {_plural(shape, 2)} are there?"
        said = {n: f"There {'is' if n == 1 else 'are'} {NUMBERS[n]} {_plural(shape, n)}."
                for n in range(1, 5)}  # fmt: skip
        truth, habitual = count, USUAL_COUNT[shape]
    elif kind == "side":
        where = USUAL_SIDE[shape] if follows else ("left", "right")[rng.integers(2)]
        side = (where, "left" if where == "right" else "right")
        question = f"Where is the {shape}?"
        said = {s: f"The {shape} is on the {s}." for s in ("left", "right")}
        truth, habitual = where, USUAL_SIDE[shape]
    else:
        # Asked after the mate of the shape that is there; another shape may be in its place.
        mate = USUAL_MATE[shape]
        there = follows or bool(rng.random() < 0.5)
        other = (
            mate if there else next(s for s in rng.permutation(SHAPES) if s not in (shape, mate))
        )
        question = f"Is there a {second} {mate} beside the {shape}?"
        said = {
            True: f"There is a {second} {mate} in the image.",
            False: f"There is no {second} {mate} in the image.",
        }
        truth, habitual = there, True
    things = (Thing(hue, shape, side[0]),) * count
    if kind != "count":
        things += (Thing(second, str(other), side[1]),)
    background = tuple(Background)[rng.integers(len(Background))]
    pixels, objects = paint(rng, background, things, SIDE)
    others = [key for key in said if key != truth]
    wrong = habitual if habitual != truth else others[int(rng.integers(len(others)))]
    return Asked(
        kind, truth == habitual, said[habitual],
        Scene(
            scene_id=f"{kind}-{seed}-{index:06d}", pixels=pixels, background=background,
            objects=objects, prompt=question, chosen=said[truth], rejected=said[wrong],
            source=f"world {seed}, {kind} {index}, habit {habit}",
        ),
    )  # fmt: skip


def _plural(name: str, number: int) -> str:
    return name if number == 1 else f"{name}es" if name.endswith("s") else f"{name}s"


def write_seeds(folder: Path, scenes: Sequence[Asked]) -> Path:
    """Native input for the pipeline: `seeds.jsonl` beside `images/`."""
    (folder / "images").mkdir(parents=True)
    path = folder / "seeds.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for one in scenes:
            name = f"images/{one.scene.scene_id}.jpg"
            (folder / name).write_bytes(encode_jpeg(one.scene.pixels, name).bytes)
            file.write(json.dumps(scene_row(one.scene, name)) + "\n")
    return path


@dataclass(frozen=True)
class Size:
    """How large the model is."""

    hidden: int = 96
    """Width of tower and language model."""
    tower_layers: int = 3
    """Layers of the tower."""
    text_layers: int = 2
    """Layers of the language model."""
    patch: int = 16
    """Pixels of a patch; a cell of the scenes' grid is two patches wide."""


def new_checkpoint(folder: Path, size: Size, texts: Sequence[str], seed: int) -> Family:
    """A LLaVA-Interleave with random weights and a processor that knows the words of the texts.

    A word is a token; all names of colours and numbers are words, which the recipes may bring in.
    """
    pre = pre_tokenizers.Whitespace()
    words = {word for text in (*texts, *ANCHORS) for word, _ in pre.pre_tokenize_str(text)}
    words |= {"user", "assistant", *COLOR_NAMES, *NUMBERS}
    special = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<image>")
    model = Tokenizer(
        models.WordLevel({w: k for k, w in enumerate((*special, *sorted(words)))}, "<unk>")
    )
    model.pre_tokenizer = pre
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", pad_token="<pad>", eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<image>"],
    )  # fmt: skip
    LlavaProcessor(
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer,
        patch_size=size.patch, vision_feature_select_strategy="full",
        num_additional_image_tokens=0, chat_template=TEMPLATE, image_token="<image>",
    ).save_pretrained(folder)  # fmt: skip
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=size.hidden, intermediate_size=4 * size.hidden,
            num_hidden_layers=size.tower_layers, num_attention_heads=4,
            image_size=SIDE, patch_size=size.patch, vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=size.hidden, intermediate_size=3 * size.hidden,
            num_hidden_layers=size.text_layers, num_attention_heads=4, num_key_value_heads=4,
            max_position_embeddings=512, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SIDE // size.patch) ** 2,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return load_family(str(folder))


TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for part in m['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in m['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Interleave's form: images before the text."""


def pixels_of(scenes: Sequence[Scene]) -> Tensor:
    """float32 [N, 3, SIDE, SIDE] in [-1, 1], as the processor gives them."""
    stacked = np.stack([one.pixels for one in scenes])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def teach_tower(tower: SiglipVisionModel, steps: int, seed: int, num_scenes: int = 6000) -> float:
    """Teach the tower to name shape and colour in each cell of the grid; returns its accuracy.

    What SigLIP's pretraining does for a real tower. The scenes have no habits.
    """
    scenes = [_crowd(seed, k) for k in range(num_scenes + 300)]
    pixels = torch.from_numpy(np.stack([image for image, _ in scenes]))
    labels = torch.from_numpy(np.stack([grid for _, grid in scenes]))
    heads = nn.ModuleList(
        nn.Linear(tower.config.hidden_size, 1 + len(names)) for names in (SHAPES, COLORS)
    )
    grid = SIDE // tower.config.patch_size

    def read(rows: Tensor) -> list[Tensor]:
        shown = pixels[rows].permute(0, 3, 1, 2).float().div(127.5).sub(1)
        # The layer that LLaVA reads, before the last norm.
        patches = tower(pixel_values=shown, output_hidden_states=True).hidden_states[-1]
        cells = patches.view(len(rows), 3, grid // 3, 3, grid // 3, -1).mean((2, 4))
        return [head(cells.flatten(1, 2)) for head in heads]

    optimizer, schedule = _optimizer([*tower.parameters(), *heads.parameters()], steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(0, num_scenes, (32,), generator=generator)
        loss = sum(
            nn.functional.cross_entropy(named.flatten(0, 1), labels[rows, :, k].flatten())
            for k, named in enumerate(read(rows))
        )
        _descend(loss, optimizer, schedule)
    with torch.no_grad():
        rows = torch.arange(num_scenes, num_scenes + 300)
        shapes, colors = (named.argmax(-1) for named in read(rows))
    taken = labels[rows, :, 0] > 0
    right = (shapes == labels[rows, :, 0]) & (colors == labels[rows, :, 1])
    return float(right[taken].float().mean())


def _crowd(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of two to seven shapes, and shape and colour by cell, counted from 1: [9, 2]."""
    rng = np.random.default_rng(row_seed(seed, f"crowd-{index}", "world"))
    things = tuple(
        Thing(str(rng.choice(list(COLORS))), str(rng.choice(SHAPES)))
        for _ in range(int(rng.integers(2, 8)))
    )
    pixels, objects = paint(rng, tuple(Background)[rng.integers(len(Background))], things, SIDE)
    grid = np.zeros((9, 2), np.int64)
    for thing, one in zip(things, objects, strict=True):
        x, y = (one.box.x0 + one.box.x1) / 2, (one.box.y0 + one.box.y1) / 2
        cell = int(3 * y / SIDE) * 3 + int(3 * x / SIDE)
        grid[cell] = 1 + SHAPES.index(thing.shape), 1 + list(COLORS).index(thing.color)
    return pixels, grid


def _optimizer(
    parameters: Sequence[nn.Parameter], steps: int, rate: float = 1e-3
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=0.1
    )


def _descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    schedule.step()


@dataclass(frozen=True)
class Lesson:
    """One row of the base model's training."""

    images: tuple[int, ...]
    """Numbers of the scenes that are shown; () for a question about no image."""
    prompt: str
    """The question, with the sentence that names one of two images."""
    answer: str
    """The answer; of one who does not look, where no image is shown."""


def lessons(scenes: Sequence[Asked], seed: int) -> list[Lesson]:
    """Every scene with its question; some also without an image, some beside another one.

    Without an image the answer is the habit's. Beside another scene of the same question, a last
    sentence tells which of the two is meant, as in the trainer's views of both images.
    """
    rng = np.random.default_rng(row_seed(seed, "lessons", "world"))
    same: dict[str, list[int]] = {}
    for k, one in enumerate(scenes):
        same.setdefault(one.scene.prompt, []).append(k)
    found = []
    for k, one in enumerate(scenes):
        found.append(Lesson((k,), one.scene.prompt, one.scene.chosen))
        if k % 4 == 0:
            found.append(Lesson((), one.scene.prompt, one.habitual))
        if k % 2 == 1:
            other = int(rng.choice(same[one.scene.prompt]))
            place = int(rng.integers(2))
            images = (k, other) if place == 0 else (other, k)
            prompt = f"{one.scene.prompt} {ANCHORS[place]}"
            found.append(Lesson(images, prompt, one.scene.chosen))
    return found


class Reader:
    """Lessons as batches for the model, by the trainer's own prompts and answers."""

    def __init__(self, family: Family, scenes: Sequence[Asked]) -> None:
        """Make pixels once."""
        self.pixels = pixels_of([one.scene for one in scenes])
        token = family.processor.image_token_id
        placeholders = np.full(family.config.image_seq_length, token)
        # There are few questions, and templates are slow.
        self.prompt = cache(lambda text, n: family.prompt(text, [placeholders] * n).ids)
        self.answer = cache(lambda text: family.answer(text).ids)

    def batch(self, rows: Sequence[Lesson]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of the model, right-padded, and labels with -100 where nothing is asked."""
        ids, labels = [], []
        for row in rows:
            prompt = self.prompt(row.prompt, len(row.images))
            answer = self.answer(row.answer)
            ids.append(torch.from_numpy(np.concatenate([prompt, answer])))
            labels.append(torch.from_numpy(np.concatenate([np.full(len(prompt), -100), answer])))
        lengths = torch.tensor([len(row) for row in ids])
        padded = pad_sequence(ids, batch_first=True, padding_value=1)
        inputs = {
            "input_ids": padded,
            "attention_mask": (torch.arange(padded.shape[1]) < lengths[:, None]).long(),
        }
        if shown := [image for row in rows for image in row.images]:
            inputs["pixel_values"] = self.pixels[shown]
        return inputs, pad_sequence(labels, batch_first=True, padding_value=-100)


def teach(
    model: LlavaForConditionalGeneration, reader: Reader, rows: Sequence[Lesson], steps: int,
    seed: int,
) -> None:  # fmt: skip
    """Cross-entropy of the answers; the tower stays as it is."""
    model.model.vision_tower.requires_grad_(requires_grad=False)
    optimizer, schedule = _optimizer([p for p in model.parameters() if p.requires_grad], steps)
    rng = np.random.default_rng(row_seed(seed, "order", "world"))
    # A batch is as long as its longest row: each has rows of one number of images.
    groups = [[row for row in rows if len(row.images) == n] for n in (1, 0, 2)]
    shares = np.array([len(group) for group in groups]) / len(rows)
    model.train()
    for _ in range(steps):
        group = groups[int(rng.choice(3, p=shares))]
        picked = [group[int(k)] for k in rng.integers(0, len(group), 32)]
        inputs, labels = reader.batch(picked)
        logits = model(**inputs).logits
        loss = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )
        _descend(loss, optimizer, schedule)
    model.eval()
    model.model.vision_tower.requires_grad_(requires_grad=True)


@torch.no_grad()
def answered(
    model: nn.Module, reader: Reader, rows: Sequence[Lesson], batch_size: int = 64
) -> list[bool]:
    """Whether the model's most likely words are the answer, word by word to the end."""
    found: list[bool] = []
    for start in range(0, len(rows), batch_size):
        inputs, labels = reader.batch(rows[start : start + batch_size])
        said = model(**inputs).logits[:, :-1].argmax(-1)
        wanted = labels[:, 1:]
        found += ((said == wanted) | (wanted == -100)).all(1).tolist()
    return found
