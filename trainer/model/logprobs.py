"""Log-probs of a batch by view: one forward over all views, with the head at answers alone.

Logits of all positions are never held at once: the head runs over a few hundred positions at a time
and, where gradients are wanted, again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.data.batches import Batch, Hidden
from trainer.data.packing import Packed, Places, join
from trainer.errors import UsageError
from trainer.families import Family, ImageFeatures, family_of
from trainer.families.encoder import PATCHES_AT_ONCE, calls, encode
from trainer.losses.views import View, of_log_probs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PASS_TOKENS = 16384
"""Tokens, padding included, of one pass of the language model."""
LOGITS_BYTES = 2**26
"""Bytes of float32 logits held at once: some 110 positions of a vocabulary of 152,000."""


class ViewLogProbs(nn.Module):
    """A model as a table of log-probs: `module(batch)` gives [B] float32 for every view.

    Views that compare distributions need two models: for them the forward stores hidden states in
    `batch.exchange` (see `trainer.model.token_kl`).

    It is what gets wrapped for several processes. All views of all rows go through it together, in
    as few passes as `PASS_TOKENS` allows, rows of like length in one pass.
    """

    def __init__(self, model: Any, *, pass_tokens: int = PASS_TOKENS) -> None:
        """`model` is one of a known family, or peft's wrapping of one."""
        super().__init__()
        self.model: Any = model
        self.family = family_of(_base(model).config)
        self.pass_tokens = pass_tokens

    def forward(self, batch: Batch) -> dict[View, Tensor]:
        """The table of a batch on the model's device."""
        base, family = _base(self.model), self.family
        inner, head = base.model, base.get_output_embeddings()
        passes = _passes(batch.packed, self.pass_tokens)
        groups = _image_calls(family, inner, batch)
        num_groups, num_passes = self._agree(len(groups), len(passes))
        features = _encode(family, inner, batch, _refilled(groups, num_groups))
        positions = _positions(family, inner, batch)
        device = head.weight.device
        table = torch.zeros(len(batch) * len(batch.views), device=device)
        compared: list[tuple[Tensor, Places]] = []
        for number, chosen in enumerate(_refilled(passes, num_passes)):
            inputs = _inputs(family.text_model(inner), chosen, positions, device)
            shown = [features[i] for p in chosen for i in p.images]
            states = inner(
                **inputs,
                mm_encoder_outputs=family.encoder_outputs(shown) if shown else None,
                use_cache=False,
            ).last_hidden_state
            filler = number >= len(passes)
            wanted, whole = _places(chosen, states.shape[1])
            found = token_log_probs(head, _read(states, wanted), _tensor(wanted.targets, device))
            table = table + add_to_cells(found, wanted, len(table)) * (0.0 if filler else 1.0)
            if len(whole.reads) and not filler:
                compared.append((_read(states, whole), whole))
        if compared:
            states = torch.cat([some for some, _ in compared])
            starts = [0] * len(compared)
            places = join([whole for _, whole in compared], starts)
            batch.exchange.hidden.append(Hidden(states, _as_it_is(head), len(head.weight), places))
        columns = table.view(len(batch), len(batch.views)).unbind(1)
        held = of_log_probs(batch.views)
        return {v: x for v, x in zip(batch.views, columns, strict=True) if v in held}

    def _agree(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over all processes, where weights are split over them.

        There every pass gathers weights, so unequal numbers of passes would deadlock.
        """
        if not isinstance(self, FSDPModule) or dist.get_world_size() == 1:
            return numbers
        most = torch.tensor(numbers, device=next(self.parameters()).device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return tuple(most.tolist())


def shares_prompts(model: Any) -> bool:
    """Whether the model's attention takes the masks of token trees (`trainer.data.packing`).

    FlashAttention takes none but causal ones, and a sliding window would be lost in them.
    """
    base = _base(model)
    config = family_of(base.config).text_model(base.model).config
    layers = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in layers if layers else window is not None
    return config._attn_implementation in ("sdpa", "eager") and not slides  # noqa: SLF001


def token_log_probs(head: Any, states: Tensor, targets: Tensor) -> Tensor:
    """Log-probs [N], float32, of targets [N] given the hidden states [N, H] before them."""
    at_once = max(1, LOGITS_BYTES // (4 * int(head.weight.shape[0])))
    found = []
    for some, wanted in zip(
        torch.split(states, at_once), torch.split(targets, at_once), strict=True
    ):
        if torch.is_grad_enabled():
            part = checkpoint(
                _log_probs, head, some, wanted, use_reentrant=False, preserve_rng_state=False
            )
        else:
            part = _log_probs(head, some, wanted)
        found.append(part)
    return torch.cat(found)


def _base(model: Any) -> Any:
    """The model itself, where peft has wrapped it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _log_probs(head: Any, states: Tensor, targets: Tensor) -> Tensor:
    logits = head(states).float()
    chosen = logits.gather(1, targets[:, None])[:, 0]
    return torch.as_tensor(chosen - logits.logsumexp(1))


def add_to_cells(values: Tensor, places: Places, num_cells: int) -> Tensor:
    """Numbers [N] at places, added up by cell: [num_cells]."""
    device = values.device
    weighted = values[_tensor(places.terms, device)] * _tensor(places.weights, device)
    cells = torch.zeros(num_cells, device=device)
    return cells.index_add(0, _tensor(places.cells, device), weighted)


def _read(states: Tensor, places: Places) -> Tensor:
    """The hidden states [N, H] at places of the rows [rows, T, H] of a pass."""
    return states.flatten(0, 1)[_tensor(places.reads, states.device)]


def _places(packed: Sequence[Packed], width: int) -> tuple[Places, Places]:
    """Of a pass: where log-probs are wanted, and where distributions are."""
    starts = [row * width for row in range(len(packed))]
    return (
        join([p.log_probs for p in packed], starts),
        join([p.compared for p in packed], starts),
    )


def _as_it_is(head: Any) -> Callable[[Tensor], Tensor]:
    """The head; without its adapters, also after they are enabled again, if they are off now."""
    if getattr(head, "disable_adapters", False):
        return partial(functional.linear, weight=head.weight, bias=head.bias)
    found: Callable[[Tensor], Tensor] = head
    return found


def _passes(packed: Sequence[Packed], most_tokens: int) -> list[list[Packed]]:
    """Token rows by pass, longest first; a pass is never mostly padding."""
    found: list[list[Packed]] = []
    for row in sorted(packed, key=lambda p: len(p.ids), reverse=True):
        width = len(found[-1][0].ids) if found else 0
        fits = width * (len(found[-1]) + 1) <= most_tokens if found else False
        if fits and 2 * len(row.ids) > width:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _refilled(parts: list[Any], number: int) -> list[Any]:
    """The parts and, up to the number that all processes agreed on, the last one again."""
    return parts + parts[-1:] * (number - len(parts))


def _image_calls(family: type[Family], inner: PreTrainedModel, batch: Batch) -> list[list[int]]:
    """Image numbers by call of the tower; empty if this model has already encoded the batch."""
    if id(inner) in batch.exchange.features:
        return []
    at_once = None if family.encoder_trains(inner) else PATCHES_AT_ONCE
    patches = [image.num_patches for image in batch.images]
    return calls(patches, [image.alone for image in batch.images], at_once=at_once)


def _encode(
    family: type[Family],
    inner: PreTrainedModel,
    batch: Batch,
    groups: Sequence[Sequence[int]],
) -> tuple[ImageFeatures, ...]:
    """The batch's encoded images; stored for the next forward if tower and projector are frozen."""
    found = batch.exchange.features.get(id(inner))
    if found is None:
        found = encode(family, inner, batch.image_tensors(), groups)
        for image, features in zip(batch.images, found, strict=True):
            if len(features.tokens) != image.num_features:
                raise UsageError(
                    f"{inner.config.name_or_path} makes {len(features.tokens)} features of an "
                    f"image for which its processor writes {image.num_features} placeholders; "
                    "correct processor_config.json (of LLaVA patch_size, "
                    "num_additional_image_tokens, vision_feature_select_strategy)"
                )
        if not family.encoder_trains(inner):
            batch.exchange.features[id(inner)] = found
    return found


@dataclass(frozen=True)
class _Positions:
    """Rotary positions by prompt, for models that count in time, height and width."""

    of: dict[int, Tensor]
    """By the prompt's identity, [3, P]; empty for other models."""

    def put(self, packed: Packed, into: Tensor) -> None:
        """Write the positions of a row's tokens into [3 or 1, T]."""
        if not self.of:
            into[0, : len(packed.depth)] = torch.from_numpy(packed.depth)
            return
        for prompt, way in packed.ways:
            own = self.of[id(prompt)]
            # What follows a prompt counts on by one in all three.
            after = torch.arange(len(way) - len(prompt.ids)) + own.max() + 1
            into[:, way] = torch.cat([own, after.expand(3, -1)], 1)


def _positions(family: type[Family], inner: PreTrainedModel, batch: Batch) -> _Positions:
    found: dict[int, Tensor] = {}
    tensors = batch.image_tensors()
    for packed in batch.packed:
        for prompt, _ in packed.ways:
            if id(prompt) in found:
                continue
            images = prompt.image[prompt.image >= 0]
            here = list(dict.fromkeys(images.tolist()))
            own = family.positions(inner, prompt, [tensors[n] for n in here])
            if own is None:
                return _Positions({})
            found[id(prompt)] = own
    return _Positions(found)


def _inputs(
    text_model: PreTrainedModel,
    packed: Sequence[Packed],
    positions: _Positions,
    device: torch.device,
) -> dict[str, Tensor]:
    """Padded ids, positions and attention mask of a pass; padding is on the right."""
    lengths = [len(p.ids) for p in packed]
    width = max(lengths)
    # What is padding follows from the lengths, not from the ids: some pad with a real token.
    ids = torch.zeros(len(packed), width, dtype=torch.int64)
    places = torch.zeros(3 if positions.of else 1, len(packed), width, dtype=torch.int64)
    for row, p in enumerate(packed):
        ids[row, : len(p.ids)] = torch.from_numpy(p.ids)
        positions.put(p, places[:, row])
    here = torch.arange(width) < torch.tensor(lengths)[:, None]
    if any(p.branches for p in packed):
        mask = _tree_mask(packed, width, device)
        if text_model.config._attn_implementation == "eager":  # noqa: SLF001
            dtype = text_model.get_input_embeddings().weight.dtype
            mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(
                ~mask, torch.finfo(dtype).min
            )
    else:
        mask = here.to(device)
    return {
        "input_ids": ids.to(device),
        "position_ids": places.to(device) if len(places) == 3 else places[0].to(device),
        "attention_mask": mask,
    }


def _tree_mask(packed: Sequence[Packed], width: int, device: torch.device) -> Tensor:
    """Which token attends to which, [rows, 1, width, width].

    Padding sees only itself: a token that sees nothing would be NaN.
    """
    most = max(len(p.sees) for p in packed) + 1
    segment = torch.full((len(packed), width), most - 1)
    sees = torch.eye(most, dtype=torch.bool).repeat(len(packed), 1, 1)
    for row, p in enumerate(packed):
        segment[row, : len(p.ids)] = torch.from_numpy(p.segment)
        sees[row, : len(p.sees), : len(p.sees)] = torch.from_numpy(p.sees)
    segment, sees = segment.to(device), sees.to(device)
    rows = torch.arange(len(packed), device=device)[:, None, None]
    mask = sees[rows, segment[:, :, None], segment[:, None, :]]
    return mask.tril()[:, None]


def _tensor(numbers: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(numbers).to(device)
