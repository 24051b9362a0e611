"""Settings of a training run: a preset or a YAML file, with `key=value` overrides, checked.

All but `machine` and `keep` decide the result; those two decide how fast, and what is written down.
One exception: `Settings.micro_batch_decides`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.ids import content_id
from schemas.names import unknown, unknown_key
from trainer.errors import UsageError
from trainer.losses import Loss

_Frozen = ConfigDict(extra="forbid", frozen=True)


class Lora(BaseModel):
    """Low-rank adapters; the reference is the model with the adapters off."""

    model_config = _Frozen

    name: Literal["lora"] = "lora"
    """Tells it from `full`."""
    rank: Annotated[int, Ge(1)] = 64
    """Rank of every adapter."""
    alpha: Annotated[float, Gt(0)] = 128
    """The adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Dropout before the adapters. 0 in the preference stage: IC-VCO declares 0.05, but TRL turns
    it off (`disable_dropout`)."""
    targets: str | None = None
    """Regular expression that a module's whole name must match; null for the attention and MLP
    projections of the language model (`Family.adapter_targets`)."""


class Full(BaseModel):
    """All weights of the language model, and of what else is named here."""

    model_config = _Frozen

    name: Literal["full"]
    """Tells it from `lora`."""
    vision_tower: bool = False
    """Whether the vision tower is trained as well."""
    projector: bool = True
    """Whether the projector between tower and language model is trained as well."""


class Optimizer(BaseModel):
    """AdamW and its schedule."""

    model_config = _Frozen

    learning_rate: Annotated[float, Gt(0)]
    """The highest rate, reached at the end of the warmup."""
    beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the mean of the gradients."""
    beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    """Decay of the mean of their squares."""
    epsilon: Annotated[float, Gt(0)] = 1e-8
    """Added to the root of the mean of squares."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Applied to matrices; vectors (biases, norms) are spared."""
    clip_norm: Annotated[float, Gt(0)] | None = 1.0
    """The gradient's norm is scaled down to this; null for no limit."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the rate falls after the warmup: to 0 along half a cosine or a line, or not at all."""
    warmup: Annotated[float, Ge(0), Le(1)] = 0.0
    """Share of the steps in which the rate rises from 0."""


class Machine(BaseModel):
    """How fast; none of it changes the result beyond float tolerance.

    But for the micro-batch with some losses: see `Settings.micro_batch_decides`.
    """

    model_config = _Frozen

    device: Literal["cuda", "cpu"] = "cuda"
    """Where the model runs; a missing GPU is an error, never a reason to take the CPU."""
    shard: bool = False
    """Whether weights and optimizer state are split over the processes (torch's `fully_shard`,
    FSDP 2) instead of held whole by each (DDP)."""
    micro_batch: Annotated[int, Ge(1)] = 1
    """Rows of one forward on one process. With VCDist and with dropout a part of the result."""
    gradient_checkpointing: bool = True
    """Whether activations are computed again in the backward pass instead of kept."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation of transformers."""
    loader_workers: Annotated[int, Ge(0)] = 2
    """Processes that decode images ahead of the model; 0 decodes in the training process."""


class Keep(BaseModel):
    """Which checkpoints and metrics lines are written."""

    model_config = _Frozen

    checkpoint_every: Annotated[int, Ge(1)] = 100
    """Steps between checkpoints; the last step gets one in any case."""
    checkpoints: Annotated[int, Ge(1)] = 2
    """Checkpoints kept; older ones are removed once a newer one is complete."""
    log_every: Annotated[int, Ge(1)] = 1
    """Steps between lines of `metrics.jsonl`; a line holds the means since the one before."""


class Settings(BaseModel):
    """One run, checked."""

    model_config = _Frozen

    about: str = ""
    """One line for a person."""
    loss: Loss
    """What is minimised: a paper's `name` and its constants."""
    tune: Annotated[Lora | Full, Field(discriminator="name")]
    """Which weights are trained."""
    optimizer: Optimizer
    """Optimizer and schedule."""
    batch_size: Annotated[int, Ge(1)]
    """Rows of one optimizer step, over all processes and micro-batches."""
    length: Annotated[str, Field(pattern=r"^[1-9]\d* (epochs?|steps?)$")]
    """"3 epochs" or "670 steps". Every epoch shows each row once, newly shuffled."""
    weights: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the loaded weights. Adapters are float32 in any case. Full fine-tuning wants float32:
    a step of 1e-6 is lost in the 8 bits of a bfloat16."""
    compute: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the matrix products; log-probs and losses are float32 in any case."""
    held_out: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the source images whose rows are kept from training, for `evaluate --held-out`."""
    max_tokens: Annotated[int, Ge(1)] | None = None
    """Rows with a longer view, images included, are dropped and counted, never truncated."""
    shuffle_window: Annotated[int, Ge(1)] = 8192
    """Rows that are shuffled with each other at a time, over all processes; a step draws from the
    row groups that are open then (`trainer.data.order`). Data sets with at most so many rows are
    shuffled as a whole. Twice the window shuffles better and takes twice the memory: all processes
    together hold half the window's rows, images encoded, and a row group a row of a step."""
    seed: int = 0
    """Decides the order of rows, crops, image orders and how adapters are initialised."""
    machine: Machine = Machine()
    """Hardware and speed."""
    keep: Keep = Keep()
    """Checkpoints and metrics lines."""

    @model_validator(mode="after")
    def _types_fit(self) -> Self:
        if self.weights == "bfloat16" and self.compute == "float32":
            raise ValueError(
                "weights: bfloat16 cannot compute in float32; set weights: float32 as well"
            )
        if isinstance(self.tune, Full) and self.weights == "bfloat16":
            raise ValueError(
                "full fine-tuning of bfloat16 weights loses most of every step to rounding; "
                "set weights: float32 (compute may stay bfloat16)"
            )
        return self

    @property
    def epochs(self) -> int | None:
        """The length in epochs; None where it is in steps."""
        number, unit = self.length.split()
        return int(number) if unit.startswith("epoch") else None

    def num_steps(self, num_rows: int) -> int:
        """Optimizer steps of the whole run over that many rows."""
        if self.epochs is None:
            return int(self.length.split()[0])
        return self.epochs * steps_per_epoch(num_rows, self.batch_size)

    @property
    def micro_batch_decides(self) -> bool:
        """Whether `machine.micro_batch` changes the result.

        It does with a loss that takes means over a micro-batch (VCDist), and with dropout, which is
        drawn anew for each.
        """
        drops = isinstance(self.tune, Lora) and self.tune.dropout > 0
        return self.loss.mixes_rows or drops

    @property
    def digest(self) -> str:
        """Content id of all that decides the result."""
        content = self.model_dump(mode="json", exclude={"about", "machine", "keep"})
        if self.micro_batch_decides:
            content["micro_batch"] = self.machine.micro_batch
        return content_id(json.dumps(content, sort_keys=True))


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Optimizer steps that show every row once; the last one may be of fewer rows."""
    return -(-num_rows // batch_size)


@dataclass(frozen=True)
class Source:
    """Where settings come from, later over earlier."""

    preset: str | None = None
    """Name of a shipped preset."""
    file: Path | None = None
    """A YAML file."""
    overrides: Sequence[str] = ()
    """`key=value`, with dots into sections: `optimizer.learning_rate=1e-6`."""


def presets() -> dict[str, Path]:
    """Names and files of the presets that come with the code."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "presets").glob("*.yaml"))}


def load_settings(source: Source) -> Settings:
    """The settings of a preset, a file and overrides, checked.

    Raises UsageError naming the source, the key, the value and what is allowed.
    """
    if source.preset is None and source.file is None:
        raise UsageError(f"give --preset ({', '.join(presets())}) or --config FILE")
    content: dict[str, Any] = {}
    where = []
    if source.preset is not None:
        if source.preset not in presets():
            raise UsageError(unknown("preset", source.preset, presets()))
        content = _read(presets()[source.preset])
        where.append(f"preset {source.preset}")
    if source.file is not None:
        content = _merged(content, _read(source.file))
        where.append(str(source.file))
    for text in source.overrides:
        content = _merged(content, _parse_override(text))
        where.append(f"--set {text}")
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"settings from {', '.join(where)}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """A validation error in one line: each field, what is wrong with it, and the value."""
    parts = []
    for item in error.errors():
        place = ".".join(str(x) for x in item["loc"]) or "settings"
        if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            inside = ".".join(str(x) for x in item["loc"][:-1])
            parts.append(f"{inside and inside + ': '}{unknown_key(Settings, item['loc'])}")
            continue
        if item["type"] == "union_tag_invalid":
            known = re.findall(r"'([^']*)'", item["ctx"]["expected_tags"])
            parts.append(unknown(place, str(item["ctx"]["tag"]), known))
            continue
        message = item["msg"].removeprefix("Value error, ")
        got = f" (got {item['input']!r:.80})" if item["loc"] else ""
        parts.append(f"{place}: {message}{got}")
    return "; ".join(parts)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UsageError(f"settings file {path} does not exist") from None
    except (OSError, yaml.YAMLError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"settings file {path} cannot be read: {message}") from None
    if not isinstance(content, dict):
        raise UsageError(f"settings file {path} must hold a mapping, not {type(content).__name__}")
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise UsageError(
            f"--set {text}: write it as key=value, for example optimizer.learning_rate=1e-6"
        )
    try:
        content = yaml.safe_load(value)
    except yaml.YAMLError as error:
        message = " ".join(str(error).split())
        raise UsageError(f"--set {text}: the value is not YAML: {message}") from None
    for part in reversed(key.split(".")):
        content = {part: content}
    assert isinstance(content, dict)
    return content


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, section by section; another `name` replaces a section whole."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            other = "name" in value and value["name"] != old.get("name")
            merged[key] = value if other else _merged(old, value)
        else:
            merged[key] = value
    return merged
