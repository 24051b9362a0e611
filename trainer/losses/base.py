"""What a loss is: arithmetic over the log-probs of its views. Knows no model and no batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.losses.views import View, columns, of_log_probs

LogProbs = Mapping[View, Tensor]
"""The cells of a batch by view: each [B], float32, what the view's `quantity` says."""


@dataclass(frozen=True)
class LossOutput:
    """What a loss makes of one batch."""

    per_row: Tensor
    """[B] float32, each row's loss in nats, with gradient; a NaN here names its row."""
    metrics: dict[str, Tensor]
    """[B] float32 each, without gradient; their means are what is reported. Names mean the same
    in every loss that has them; see trainer/README.md."""

    @property
    def loss(self) -> Tensor:
        """The mean over the rows: a scalar, float32. What is minimised."""
        return self.per_row.mean()


class PreferenceLoss(ABC):
    """A paper's loss: a frozen dataclass whose fields are its constants."""

    name: str
    """Its name in settings."""

    @property
    @abstractmethod
    def views(self) -> frozenset[View]:
        """Exactly the cells that it reads with these settings; a weight of 0 removes its own."""

    @property
    def reference_views(self) -> frozenset[View]:
        """The cells whose reference it reads, too: by default all that hold log-probs."""
        return of_log_probs(self.views)

    @property
    def needs(self) -> frozenset[str]:
        """The columns that a pair must fill; see `trainer.losses.views.columns`."""
        return columns(self.views)

    @property
    def mixes_rows(self) -> bool:
        """Whether a row's loss depends on those beside it, so on how a step is cut in batches."""
        return False

    @abstractmethod
    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """The loss of a batch: `policy` holds `views`, `reference` holds `reference_views`.

        Only `policy` gets gradients. Raises ValueError for a missing view or unequal lengths.
        """


def log_ratios(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> dict[View, Tensor]:
    """Policy minus reference log-probs of every such view of the loss: [B], at least float32.

    Cast up before the subtraction: two sums of hundreds of nats differ by few, which bfloat16
    cannot hold.
    """
    check(loss, policy, reference)
    return {
        view: at_least_float32(policy[view]) - at_least_float32(reference[view]).detach()
        for view in of_log_probs(loss.views)
    }


def check(loss: PreferenceLoss, policy: LogProbs, reference: LogProbs) -> None:
    """ValueError unless all cells are there, all of one length of at least a row."""
    for name, table, wanted in (
        ("policy", policy, loss.views),
        ("reference", reference, loss.reference_views),
    ):
        missing = sorted(view.key for view in wanted if view not in table)
        if missing:
            raise ValueError(
                f"{type(loss).__name__} reads views that the {name} table lacks: "
                f"{', '.join(missing)}; fill exactly the loss's views"
            )
    shapes = {tuple(policy[view].shape) for view in loss.views}
    shapes |= {tuple(reference[view].shape) for view in loss.reference_views}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 1 or shape[0] == 0:
        raise ValueError(
            f"{type(loss).__name__} takes log-probs of one shape [B] with B >= 1, not "
            f"{sorted(tuple(policy[view].shape) for view in loss.views)}"
        )


def at_least_float32(tensor: Tensor) -> Tensor:
    """float32, or float64 where it is given (gradient checks)."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
