"""The losses of the papers: one frozen dataclass each, pure functions of a table of views."""

from typing import Annotated

from pydantic import Field

from trainer.losses.adavip import AdaViP as AdaViP
from trainer.losses.base import LogProbs as LogProbs
from trainer.losses.base import LossOutput as LossOutput
from trainer.losses.base import PreferenceLoss as PreferenceLoss
from trainer.losses.chip import CHiP as CHiP
from trainer.losses.dpo import DPO as DPO
from trainer.losses.icvco import ICVCO as ICVCO
from trainer.losses.mdpo import MDPO as MDPO
from trainer.losses.ovip import OViP as OViP
from trainer.losses.sft import SFT as SFT
from trainer.losses.svco import SVCO as SVCO
from trainer.losses.symmpo import SymMPO as SymMPO
from trainer.losses.vdpo import VDPO as VDPO

Loss = Annotated[
    DPO | MDPO | SVCO | SymMPO | OViP | AdaViP | ICVCO | VDPO | CHiP | SFT,
    Field(discriminator="name"),
]
"""Any of them, as a configuration writes it: {"name": "dpo", "beta": 0.1}."""
