"""The losses of the papers: one frozen dataclass each, pure functions of a table of views."""

from typing import Annotated

from pydantic import Field

from trainer.losses.adavip import AdaViP
from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss
from trainer.losses.dpo import DPO
from trainer.losses.icvco import ICVCO
from trainer.losses.mdpo import MDPO
from trainer.losses.ovip import OViP
from trainer.losses.sft import SFT
from trainer.losses.svco import SVCO
from trainer.losses.symmpo import SymMPO

Loss = Annotated[
    DPO | MDPO | SVCO | SymMPO | OViP | AdaViP | ICVCO | SFT, Field(discriminator="name")
]
"""Any of them, as a configuration writes it: {"name": "dpo", "beta": 0.1}."""

__all__ = [
    "DPO",
    "ICVCO",
    "MDPO",
    "SFT",
    "SVCO",
    "AdaViP",
    "LogProbs",
    "Loss",
    "LossOutput",
    "OViP",
    "PreferenceLoss",
    "SymMPO",
]
