"""The policy: loads the model, freezes or adapts it, and restores a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from trainer.errors import UsageError
from trainer.model.broadcast import read_once, send_whole
from trainer.model.logprobs import ViewLogProbs
from trainer.model.precision import DTYPES
from trainer.model.processes import Processes
from trainer.model.trainable import make_trainable, parameter_groups, trainable
from trainer.model.weights import WEIGHTS, load_adapter, load_optimizer
from trainer.model.wrapped import wrap
from trainer.settings import Full, Settings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Policy:
    """What a run trains."""

    model: PreTrainedModel | PeftModel
    """The model, wrapped by peft if adapters are trained; checkpoints use its parameter names."""
    module: nn.Module
    """Batch -> log-probs by view, wrapped for the exchange of gradients."""
    optimizer: torch.optim.Optimizer
    """Over the trainable parameters."""
    counts: str
    """The trainable parameters, as one line for the log."""


def load_model(
    model: str, revision: str | None, *, weights: str, attention: str, read: bool = True
) -> PreTrainedModel:
    """A vision-language model on the CPU; UsageError where it cannot be loaded.

    Without `read` it is on the meta device, and no file with weights is opened.
    """
    from transformers import AutoConfig, AutoModelForImageTextToText  # noqa: PLC0415  6 s

    kind = {"dtype": DTYPES[weights], "attn_implementation": attention}
    try:
        if read:
            return AutoModelForImageTextToText.from_pretrained(model, revision=revision, **kind)
        config = AutoConfig.from_pretrained(model, revision=revision)
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config, **kind).eval()
    except (OSError, ImportError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"{model} cannot be loaded: {message:.300}") from error


def make_policy(
    model: str,
    revision: str | None,
    settings: Settings,
    processes: Processes,
    checkpoint: Path | None,
) -> Policy:
    """The policy of a run, from the start model or from a checkpoint.

    All processes call it; the first one reads the weights.
    """
    whole = isinstance(settings.tune, Full)

    def build(read: bool) -> PreTrainedModel | PeftModel:  # noqa: FBT001  as `read_once` asks
        source, at = (model, revision)
        if checkpoint is not None and whole:
            source, at = str(checkpoint / WEIGHTS), None
        attention = settings.machine.attention
        loaded = load_model(source, at, weights=settings.weights, attention=attention, read=read)
        if settings.machine.gradient_checkpointing:
            loaded.gradient_checkpointing_enable({"use_reentrant": False})
        policy = make_trainable(loaded, settings.tune, settings.seed)
        if not whole:
            for config in policy.peft_config.values():
                # peft notes the model's name by itself, but not which commit of it.
                config.revision = revision
            if checkpoint is not None and read:
                load_adapter(checkpoint, policy)
        # For gradient checkpointing, which transformers does in training alone; dropouts are 0.
        return policy.train()

    policy = read_once(build, processes)
    counts = str(trainable(policy))
    module = wrap(
        ViewLogProbs(policy),
        processes,
        shard=settings.machine.shard,
        layers=_layers(policy),
        compute=DTYPES[settings.compute],
        may_be_unused=whole,
    )
    given = settings.optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(policy, given.weight_decay),
        lr=given.learning_rate,
        betas=(given.beta1, given.beta2),
        eps=given.epsilon,
    )
    if checkpoint is not None:
        load_optimizer(checkpoint, policy, optimizer, processes)
    return Policy(policy, module, optimizer, counts)


def frozen_module(model: PreTrainedModel, settings: Settings, processes: Processes) -> nn.Module:
    """Batch -> log-probs of a second, frozen model, whose weights are split as the policy's.

    `model` is as `read_once` gives it.
    """
    module = ViewLogProbs(model.requires_grad_(requires_grad=False).eval())
    if not settings.machine.shard:
        return send_whole(module, processes)
    return wrap(
        module,
        processes,
        shard=True,
        layers=_layers(model),
        compute=DTYPES[settings.compute],
        may_be_unused=False,
    )


def _layers(model: PreTrainedModel | PeftModel) -> list[str]:
    """Class names of the blocks that are split one by one; accelerate reads them there, too."""
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    found: list[str] = plain._no_split_modules  # noqa: SLF001
    return found
