"""Which parameters are trained: adapters or weights, by module name. Knows no losses."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from schemas.ids import row_seed
from trainer.errors import UsageError
from trainer.families import family_of
from trainer.settings import Full, Lora

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trainable:
    """How many parameters of a model are trained."""

    tensors: int
    """Trainable tensors."""
    parameters: int
    """Trainable parameters."""
    total: int
    """Parameters of the whole model, adapters included."""
    by_part: Mapping[str, int]
    """Trainable parameters by part: language_model, projector, vision_tower."""

    def __str__(self) -> str:
        """One line for a person."""
        parts = ", ".join(f"{part} {number:,}" for part, number in self.by_part.items())
        share = self.parameters / self.total
        return (
            f"{self.parameters:,} of {self.total:,} parameters are trained ({share:.2%}), "
            f"in {self.tensors} tensors: {parts}"
        )


def make_trainable(
    model: PreTrainedModel, tune: Lora | Full, seed: int
) -> PreTrainedModel | PeftModel:
    """Freeze the model except for the weights or adapters that `tune` names.

    Adapters are added in place, in float32, initialised from the seed; the model's own
    dropouts are set to 0. UsageError where a pattern matches nothing.
    """
    _silence_dropout(model)
    model.requires_grad_(requires_grad=False)
    if isinstance(tune, Full):
        wanted = {"language_model"}
        wanted |= {"vision_tower"} if tune.vision_tower else set()
        wanted |= {"projector"} if tune.projector else set()
        family = family_of(model.config)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(family.part_of(name) in wanted)
        return model
    return _with_adapters(model, tune, seed)


def _with_adapters(model: PreTrainedModel, tune: Lora, seed: int) -> PeftModel:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415  2 s, for adapters alone

    targets = tune.targets or family_of(model.config).adapter_targets()
    try:
        pattern = re.compile(targets)
    except re.error as error:
        raise UsageError(f"tune.targets {targets!r} is not a regular expression: {error}") from None
    matched = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    linear = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not matched or (other := sorted(set(matched) - set(linear))):
        what = f"matches {other[0]}, which is not a linear layer" if matched else "matches nothing"
        raise UsageError(
            f"tune.targets {targets!r} {what}; the model's {len(linear)} linear layers "
            f"have names like {linear[0]} and {linear[len(linear) // 2]}"
        )
    config = LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha,
        lora_dropout=tune.dropout,
        target_modules=targets,
        bias="none",
    )
    with torch.random.fork_rng():
        torch.manual_seed(row_seed(seed, "adapters", "tuning"))
        return get_peft_model(model, config)


def trainable(model: PreTrainedModel | PeftModel) -> Trainable:
    """Count the trainable parameters."""
    by_part: Counter[str] = Counter()
    tensors = 0
    family = family_of(model.config)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            tensors += 1
            by_part[family.part_of(name)] += parameter.numel()
    total = sum(parameter.numel() for parameter in model.parameters())
    return Trainable(tensors, sum(by_part.values()), total, dict(by_part))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for the optimizer: matrices decay, vectors (biases, norms) do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _silence_dropout(model: nn.Module) -> None:
    """Set the model's own dropouts to 0: policy and reference must differ in the weights alone."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "dropout"):
            # Attention layers keep the rate as a number and hand it to the kernel.
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
