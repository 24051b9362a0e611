"""KL between reference and policy over the whole vocabulary, at every counted token of an answer.

As for log-probs, the heads run over some hundred positions at a time and, for gradients, again in
the backward pass, so the distributions of all positions are never held at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from trainer.data.batches import Batch, Hidden
from trainer.losses.views import Quantity, View
from trainer.model import logprobs


def token_kl(batch: Batch) -> dict[View, Tensor]:
    """The cells [B] of the views that compare distributions, from the stored hidden states.

    The policy's forward comes first, then the reference's; gradients reach the policy alone.
    Removes the hidden states from the batch.
    """
    policy, reference = batch.exchange.hidden
    batch.exchange.hidden.clear()
    values = kl_by_position(policy, reference)
    cells = logprobs.add_to_cells(values, policy.places, len(batch) * len(batch.views))
    columns = cells.view(len(batch), len(batch.views)).unbind(1)
    return {
        view: column
        for view, column in zip(batch.views, columns, strict=True)
        if view.quantity is Quantity.KL
    }


def kl_by_position(policy: Hidden, reference: Hidden) -> Tensor:
    """KL(reference || policy) in nats at each of N positions, float32 (TDPO, CHiP)."""
    # Logits of both models, and in the backward pass their gradients, are in memory together.
    at_once = max(1, logprobs.LOGITS_BYTES // (4 * 2 * policy.vocabulary))
    found = []
    for mine, theirs in zip(
        torch.split(policy.states, at_once), torch.split(reference.states, at_once), strict=True
    ):
        if torch.is_grad_enabled():
            part = checkpoint(
                _kl, policy, reference, mine, theirs, use_reentrant=False, preserve_rng_state=False
            )
        else:
            part = _kl(policy, reference, mine, theirs)
        found.append(part)
    return torch.cat(found)


def _kl(policy: Hidden, reference: Hidden, mine: Tensor, theirs: Tensor) -> Tensor:
    with torch.no_grad():
        target = reference.head(theirs).float().log_softmax(-1)
    log_probs = policy.head(mine).float().log_softmax(-1)
    kl = functional.kl_div(log_probs, target, reduction="none", log_target=True)
    return torch.as_tensor(kl.sum(-1))
