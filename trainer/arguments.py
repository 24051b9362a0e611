"""Arguments of the commands that train and measure. Imports nothing that is slow to load."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Add = Callable[..., argparse.ArgumentParser]
"""Adds a command by its name and its line in the help."""


def add_train(add: Add) -> None:
    """Commands around a training run."""
    train = add("train", "train a model on pairs, or resume an interrupted run")
    _add_dataset(train)
    train.add_argument("--output", required=True, metavar="RUN", help="folder of the run")
    train.add_argument(
        "--reference",
        metavar="FILE",
        help="reference log-probs that `precompute` wrote; default: computed in every step",
    )
    train.add_argument(
        "--ray-workers",
        type=_positive,
        metavar="N",
        help="N processes on a Ray cluster; RUN must be on storage that all its nodes mount",
    )

    precompute = add("precompute", "write the reference's log-probs once, for many runs")
    _add_dataset(precompute)
    precompute.add_argument("--output", required=True, metavar="FILE", help="Parquet to write")

    _add_evaluate(add("evaluate", "measure a model on pairs and yes/no questions, without a judge"))

    merge = add("merge", "make a plain checkpoint of a trained run")
    merge.add_argument("run", metavar="RUN", help="output folder of `train`, or a checkpoint in it")
    merge.add_argument("output", metavar="FOLDER", help="new folder for the checkpoint")
    merge.add_argument("--model", metavar="MODEL", help="where the base model is now")
    merge.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="default: as the base is stored"
    )

    export = add("export-eval", "write configurations for VLMEvalKit and lmms-eval")
    export.add_argument("model", metavar="FOLDER", help="plain checkpoint, as `merge` writes it")
    export.add_argument("output", metavar="FOLDER", help="new folder for the configurations")
    export.add_argument("--name", help="name of the results (default: FOLDER's name)")


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    """Arguments that `train` and `precompute` share."""
    _add_shards(parser)
    parser.add_argument("--model", required=True, help="hub id or folder of the base model")
    parser.add_argument("--revision", help="commit of the hub's model")
    parser.add_argument("--preset", help="settings of a paper; the command `presets` lists them")
    parser.add_argument("--config", metavar="FILE", help="YAML settings, over the preset")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key: optimizer.learning_rate=1e-6, machine.micro_batch=4; repeatable",
    )


def _add_shards(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shards", nargs="+", metavar="RUNS", help="run directories of pairs: paths or URLs"
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
    evaluate.add_argument("--no-pope", action="store_true", help="leave the yes/no questions out")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
