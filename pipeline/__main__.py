"""The command line: `nearmiss`, `python -m pipeline` and, from there, `python -m trainer`."""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from pipeline.cli.parser import parse
from pipeline.errors import RunError, UsageError

log = logging.getLogger("nearmiss")

TRAINING = {"train", "precompute", "evaluate", "merge", "export-eval"}
"""The trainer's commands; all others are the pipeline's."""

LISTS_TRAINING = {"settings", "presets"}
"""Commands of the pipeline that may import the trainer, which needs packages of an extra."""

QUIET = {
    # A line for every request would bury the progress.
    "httpx": logging.WARNING,
    "huggingface_hub": logging.WARNING,
    # They warn about each other and about kernels that are not used here.
    "torchao": logging.ERROR,
    "torch.utils._pytree": logging.ERROR,
}
"""Loggers of libraries, and from which level on they are heard."""


def main(argv: Sequence[str] | None = None, prog: str = "nearmiss") -> int:
    """Run a command; returns its exit status: 0 complete, 1 failed, 2 bad usage, 3 incomplete.

    `prog` is what the user typed to come here, for help texts.
    """
    args = parse(argv, prog)
    logging.basicConfig(
        # Of the processes of a training run one speaks.
        level=logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    try:
        return _command(args.command)(args)
    except UsageError as error:
        sys.stderr.write(f"nearmiss: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("nearmiss: interrupted; run the same command again to go on\n")
        return 3
    except RunError as error:
        sys.stderr.write(f"nearmiss: failed: {error}\n")
        return 1
    except Exception as error:  # the command's edge: one line, and what to do
        if args.verbose:
            log.exception("the command failed")
        if isinstance(error, ModuleNotFoundError) and args.command in (*TRAINING, *LISTS_TRAINING):
            need = f"{args.command} needs the package {error.name}, which is not installed"
            sys.stderr.write(f"nearmiss: {need}: pip install 'nearmiss[train]'\n")
            return 2
        sys.stderr.write(f"nearmiss: failed: {_cause(error)}\n")
        return 1


def _command(name: str) -> Callable[[Namespace], int]:
    """What a command does; imported here, so that help and a slip in arguments answer at once."""
    if name in TRAINING:
        # Before transformers is imported: loader processes fork after the tokenizer was used.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from trainer.commands import COMMANDS as TRAINS  # noqa: PLC0415

        return TRAINS[name]
    # Before anything imports OpenCV: the processes are the parallelism, see `engine.on_ray`.
    os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from pipeline.commands import COMMANDS  # noqa: PLC0415

    return COMMANDS[name]


def _cause(error: BaseException) -> str:
    """What went wrong, in one line; Ray wraps what a worker raised."""
    while type(error).__module__.startswith("ray."):
        inner = getattr(error, "cause", None) or error.__cause__
        if inner is None or not str(inner):
            break
        error = inner
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]


if __name__ == "__main__":
    sys.exit(main(prog="python -m pipeline"))
