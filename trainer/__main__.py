"""Another door to the one command line: `python -m trainer`, as torchrun and Ray jobs call it."""

from __future__ import annotations

import sys

from pipeline.__main__ import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m trainer"))
