"""Lets a CUDA build of torchvision be imported beside a CPU build of torch. For tests alone.

The registry has no CPU build of torchvision. Its compiled part then fails to load, so the operators
`nms` and `qnms` are unknown and the import dies where it registers their fake forms. Declared
beforehand, they let the import through; the image transforms of processors are pure Python.

Run as a script it installs itself into the environment, as a line that every start of Python reads;
so Ray's workers and other subprocesses have it, too. It does nothing beside a torch with CUDA.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from importlib.abc import MetaPathFinder
from pathlib import Path

NAME = "nearmiss_torchvision_on_cpu"


class BeforeTorchvision(MetaPathFinder):
    """Declares the operators when torchvision is first asked for, and finds nothing itself."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare() -> None:
    import torch

    if torch.version.cuda is not None:
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torch._nearmiss_torchvision = library  # it must outlive this call


if __name__ == "__main__":
    site = Path(sysconfig.get_paths()["purelib"])
    shutil.copy(__file__, site / f"{NAME}.py")
    (site / f"{NAME}.pth").write_text(f"import {NAME}\n")
elif __name__ == NAME:
    sys.meta_path.insert(0, BeforeTorchvision())
