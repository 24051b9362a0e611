"""The command line: `nearmiss` and `python -m pipeline`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# Before anything imports OpenCV: the processes are the parallelism, see `engines.THREADS`.
os.environ.setdefault("OPENCV_FOR_THREADS_NUM", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

log = logging.getLogger("pipeline")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0 complete, 1 failed, 2 bad usage, 3 incomplete."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for client in ("httpx", "huggingface_hub"):
        # A line for every request would bury the progress.
        logging.getLogger(client).setLevel(logging.WARNING)
    # Imported here, so that `--help` and a slip in the arguments answer at once.
    from pipeline.commands import COMMANDS  # noqa: PLC0415
    from pipeline.errors import RunError, UsageError  # noqa: PLC0415

    try:
        return COMMANDS[args.command](args)
    except UsageError as error:
        sys.stderr.write(f"nearmiss: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("nearmiss: interrupted; the same command again goes on from here\n")
        return 3
    except RunError as error:
        sys.stderr.write(f"nearmiss: failed: {error}\n")
        return 1
    except Exception as error:  # the command's edge: one line, and what to do
        if args.verbose:
            log.exception("the command failed")
        sys.stderr.write(f"nearmiss: failed: {_cause(error)}\n")
        return 1


def _cause(error: BaseException) -> str:
    """The innermost cause that says something, in one line; Ray wraps what a worker raised."""
    while (inner := error.__cause__ or getattr(error, "cause", None)) is not None and str(inner):
        error = inner
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]


class _Parser(argparse.ArgumentParser):
    """Says a slip in one line, like every other error; takes no abbreviation for an option."""

    def __init__(self, **more: Any) -> None:
        super().__init__(allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"nearmiss: {' '.join(message.split())}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nearmiss",
        description="Make hard-negative image pairs from annotated images.",
        epilog="Exit status: 0 complete, 1 failed, 2 bad usage or input, 3 incomplete.",
    )
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a failure")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe, or go on with an interrupted run")
    _add_what(run)
    run.add_argument("--output", required=True, metavar="RUN", help="run directory: path or URL")
    run.add_argument("--local", action="store_true", help="in one worker process, without Ray")
    run.add_argument(
        "--retry-errors",
        action="store_true",
        help="do shards again in which rows raised, crashed or timed out",
    )

    plan = commands.add_parser("plan", help="show what a run would do; takes no device")
    _add_what(plan)
    plan.add_argument("--output", metavar="RUN", help="accepted, so that run's arguments fit")
    plan.add_argument("--local", action="store_true", help="accepted, so that run's arguments fit")
    plan.add_argument("--retry-errors", action="store_true", help="accepted, likewise")

    status = commands.add_parser("status", help="seeds, pairs, drops by reason, complete or not")
    status.add_argument("run", metavar="RUN", help="run directory")
    status.add_argument("--json", action="store_true", help="as JSON")

    report = commands.add_parser("report", help="write RUN/report.html again")
    report.add_argument("run", metavar="RUN", help="run directory")

    show = commands.add_parser(
        "show", help="one pair, or all outcomes of a seed, and how they came"
    )
    show.add_argument("run", metavar="RUN", help="run directory")
    show.add_argument("pair_id", metavar="PAIR_ID", help="pair id or seed id, or its beginning")
    show.add_argument("--images-to", metavar="FOLDER", help="also write the two images there")
    doctor = commands.add_parser("doctor", help="what would stop a run; pays for nothing")
    _add_what(doctor, needs_input=False)
    doctor.add_argument("--output", metavar="RUN", help="run directory that the run would have")
    models = commands.add_parser("models", help="the model files that a recipe needs")
    models.add_argument("action", choices=("list", "pull"), help="show them, or fetch them")
    models.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    _add_set(models)
    _add_export(commands.add_parser("export", help="a finished run in the form of another trainer"))
    return parser


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("run", metavar="RUN", help="run directory")
    export.add_argument("--output", required=True, metavar="DIR", help="new folder: path or URL")
    export.add_argument(
        "--format",
        required=True,
        metavar="FORM",
        help="trl, ms-swift, llamafactory, ic-vco, mvc, symmpo or llava",
    )
    export.add_argument(
        "--negative",
        choices=("auto", "rejected", "counterfactual"),
        default="auto",
        help="wrong answer of the original: rejected where there is one (auto), or one of the two",
    )
    export.add_argument(
        "--both-sides", action="store_true", help="also a row about the near miss itself"
    )
    export.add_argument(
        "--validation", type=float, default=0.0, metavar="SHARE", help="share of images held out"
    )
    export.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the hold-out")


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the recipe: segmenter.min_area=0.01, shard_size=64",
    )


def _add_what(parser: argparse.ArgumentParser, *, needs_input: bool = True) -> None:
    """Arguments that say what is run."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    parser.add_argument("--input", required=needs_input, metavar="PATH", help="file, folder or URL")
    parser.add_argument("--placement", metavar="FILE", help="placement YAML; default: one machine")
    _add_set(parser)
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N input rows")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="run seed (default 0)")
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="input columns: chosen=answer,image=img or preset=rlaif-v; may be repeated",
    )
    parser.add_argument("--image-root", metavar="DIR", help="folder that image paths start from")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
