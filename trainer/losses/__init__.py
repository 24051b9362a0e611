"""The losses of the papers: one frozen dataclass each, pure functions of a table of views."""

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss

__all__ = ["LogProbs", "LossOutput", "PreferenceLoss"]
