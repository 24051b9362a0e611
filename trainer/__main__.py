"""The command line: `python -m trainer`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# Before transformers is imported: loader processes fork after the tokenizer was used.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

log = logging.getLogger("trainer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit status: 0 done, 1 failed, 2 bad usage, 3 interrupted."""
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )
    for name in ("torchao", "torch.utils._pytree"):
        # They warn about each other and about kernels that are not used here.
        logging.getLogger(name).setLevel(logging.ERROR)
    # Imported here, so that `--help` and a slip in the arguments answer at once.
    from trainer.commands import COMMANDS  # noqa: PLC0415
    from trainer.errors import UsageError  # noqa: PLC0415

    try:
        return COMMANDS[args.command](args)
    except UsageError as error:
        sys.stderr.write(f"trainer: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("trainer: interrupted\n")
        return 3
    except Exception as error:  # the command's edge: one line, and what to do
        if args.verbose:
            log.exception("the command failed")
        sys.stderr.write(f"trainer: failed: {_one_line(error)}\n")
        return 1


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:2000]


class _Parser(argparse.ArgumentParser):
    """Says a slip in one line, like every other error; takes no abbreviation for an option."""

    def __init__(self, **more: Any) -> None:
        super().__init__(allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"trainer: {' '.join(message.split())}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m trainer",
        description="Align a vision-language model with contrast pairs.",
        epilog="Exit status: 0 done, 1 failed, 2 bad usage or input, 3 interrupted: "
        "the same command goes on.",
    )
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a failure")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands.add_parser("train", help="train, or go on with an interrupted run"))
    _add_evaluate(commands.add_parser("evaluate", help="probe and POPE questions, without a judge"))

    precompute = commands.add_parser(
        "precompute", help="write the reference's log-probs to a side-car file, once for many runs"
    )
    _add_material(precompute)
    precompute.add_argument("--output", required=True, metavar="FILE", help="Parquet to write")

    merge = commands.add_parser("merge", help="make a plain checkpoint of a trained run")
    merge.add_argument("run", metavar="RUN", help="output folder of `train`, or a checkpoint in it")
    merge.add_argument("output", metavar="FOLDER", help="new folder for the checkpoint")
    merge.add_argument("--model", metavar="MODEL", help="where the base model is now")
    merge.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="default: as the base is stored"
    )

    export = commands.add_parser(
        "export-eval", help="write configurations for VLMEvalKit and lmms-eval"
    )
    export.add_argument("model", metavar="FOLDER", help="plain checkpoint, as `merge` writes it")
    export.add_argument("output", metavar="FOLDER", help="new folder for the configurations")
    export.add_argument("--name", help="what results are filed under (default: FOLDER's name)")
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    _add_material(train)
    train.add_argument("--output", required=True, metavar="RUN", help="folder of the run")
    train.add_argument(
        "--reference", metavar="FILE", help="side-car file of `precompute`, instead of a forward"
    )
    train.add_argument(
        "--ray-workers",
        type=_positive,
        metavar="N",
        help="N processes on a Ray cluster; RUN must be on storage that all its nodes mount",
    )


def _add_material(parser: argparse.ArgumentParser) -> None:
    """Arguments that `train` and `precompute` share."""
    _add_shards(parser)
    parser.add_argument("--model", required=True, help="hub id or folder of the base model")
    parser.add_argument("--revision", help="commit of the hub's model")
    parser.add_argument("--preset", help="a paper's settings; see trainer/presets")
    parser.add_argument("--config", metavar="FILE", help="YAML settings, over the preset")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key: optimizer.learning_rate=1e-6, machine.micro_batch=4",
    )


def _add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shards", nargs="+", metavar="SHARDS", help="run folders of the pipeline: paths or URLs"
    )


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    _add_shards(evaluate)
    what = evaluate.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="hub id or folder of a plain model")
    what.add_argument("--run", metavar="RUN", help="output folder of `train`, or a checkpoint")
    evaluate.add_argument("--revision", help="commit of the hub's model")
    evaluate.add_argument("--output", metavar="FILE", help="write all numbers as JSON")
    evaluate.add_argument(
        "--held-out",
        action="store_true",
        help="only the rows that RUN's settings kept from training (with --run)",
    )
    evaluate.add_argument("--limit", type=_positive, metavar="N", help="only the first N pairs")
    evaluate.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    evaluate.add_argument("--weights", choices=("bfloat16", "float32"), default="bfloat16")
    evaluate.add_argument("--micro-batch", type=_positive, default=4, metavar="N")
    evaluate.add_argument("--no-pope", action="store_true", help="the probe alone")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


if __name__ == "__main__":
    sys.exit(main())
