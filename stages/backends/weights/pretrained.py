"""Models of the transformers library from a checkpoint: whole, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from transformers import BaseImageProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as hub_logging

from stages.backends.weights.checkpoints import (
    Checkpoint,
    CheckpointError,
    locate,
    require_model_type,
)

Network = TypeVar("Network", bound=PreTrainedModel)
Processor = TypeVar("Processor", bound=BaseImageProcessor | PreTrainedTokenizerBase)


def load_model(
    classes: Mapping[str, type[Network]],
    checkpoint: Checkpoint,
    place: tuple[torch.device, torch.dtype],
) -> tuple[Network, Path]:
    """The model in evaluation mode on its device, and the folder that it came from.

    `classes` names the class for every `model_type` that will do. CheckpointError in one line for a
    checkpoint of another type, for damaged files, and for weights that the model has and the files
    have not: the library would draw those at random.
    """
    device, dtype = place
    folder = locate(checkpoint)
    model_class = classes[require_model_type(folder, classes, checkpoint)]
    with _quiet():
        try:
            model, loading = model_class.from_pretrained(
                folder, dtype=dtype, output_loading_info=True, local_files_only=True
            )
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"{checkpoint}: {folder} holds no {model_class.__name__}: {_first_line(error)}"
            ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{checkpoint}: {folder} lacks {len(missing)} of the weights of a "
            f"{model_class.__name__}, such as {missing[0]}; is it another model?"
        )
    return model.eval().requires_grad_(False).to(device), folder  # noqa: FBT003


def load_processor(
    processor_class: type[Processor], folder: Path, checkpoint: Checkpoint
) -> Processor:
    """The image processor or tokenizer of a model folder; CheckpointError in one line."""
    with _quiet():
        try:
            processor: Processor = processor_class.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{checkpoint}: {folder} holds no {processor_class.__name__}: {_first_line(error)}"
            ) from error
    return processor


def require_vocabulary(
    tokenizer: PreTrainedTokenizerBase, wanted: int, folder: Path, checkpoint: Checkpoint
) -> None:
    """CheckpointError for a tokenizer without words, or with more tokens than the model reads.

    Without a tokenizer's files the library makes an empty one, and says nothing. Fewer tokens than
    the model reads are usual: embeddings are padded to a round number.
    """
    found = len(tokenizer)
    if found <= len(tokenizer.all_special_tokens) or found > wanted:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer in {folder} has {found} tokens, the model reads "
            f"{wanted}; is tokenizer.json there, and of this model?"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, and no report of unused weights: an embedder leaves half a model out."""
    library = logging.getLogger("transformers")
    level, bars = library.level, hub_logging.is_progress_bar_enabled()
    library.setLevel(logging.ERROR)
    hub_logging.disable_progress_bar()
    try:
        yield
    finally:
        library.setLevel(level)
        if bars:
            hub_logging.enable_progress_bar()
