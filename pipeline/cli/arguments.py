"""Arguments of the commands that make, show and publish pairs."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Add = Callable[..., argparse.ArgumentParser]
"""Adds a command by its name and its line in the help; see `parser.Commands.add`."""


def add_make(add: Add) -> None:
    """Commands around a run."""
    run = add("run", "run a recipe, or resume an interrupted run")
    _add_what(run)
    run.add_argument("--output", required=True, metavar="RUN", help="run directory: path or URL")
    run.add_argument(
        "--local", action="store_true", help="work in one process on this machine, without Ray"
    )
    run.add_argument(
        "--retry-errors",
        action="store_true",
        help="make shards again in which rows raised, crashed or timed out",
    )

    plan = add("plan", "show what a run would do", "Takes run's arguments; needs no device.")
    _add_what(plan)
    for option, more in (
        ("--output", {"metavar": "RUN"}),
        ("--local", {"action": "store_true"}),
        ("--retry-errors", {"action": "store_true"}),
    ):
        plan.add_argument(option, help="ignored: run's arguments fit plan", **more)  # type: ignore[arg-type]  # mypy cannot tell the two forms apart

    doctor = add("doctor", "find what would stop a run", "Starts nothing that costs money.")
    _add_what(doctor, needs_input=False)
    doctor.add_argument("--output", metavar="RUN", help="run directory that the run would have")

    models = add("models", "list or download the checkpoints that a recipe needs")
    models.add_argument("action", choices=("list", "pull"), help="show them, or download them")
    add_recipe(models)


def add_look(add: Add) -> None:
    """Commands that read a run directory."""
    status = add("status", "count seeds, pairs and drops by reason; say whether a run is complete")
    _add_run(status)
    status.add_argument("--json", action="store_true", help="as JSON")

    show = add("show", "print a pair, or all outcomes of a seed, with how they were made")
    _add_run(show)
    show.add_argument("pair_id", metavar="ID", help="pair id or seed id, or its beginning")
    show.add_argument("--images-to", metavar="FOLDER", help="also write the two images there")

    _add_run(add("report", "write RUN/report.html again"))


def add_export(add: Add) -> None:
    """Commands that hand pairs to others."""
    export = add("export", "write a finished run in another trainer's format")
    _add_run(export)
    export.add_argument("--output", required=True, metavar="DIR", help="new folder: path or URL")
    export.add_argument(
        "--format",
        required=True,
        metavar="FORMAT",
        help="trl, ms-swift, llamafactory, ic-vco, mvc, symmpo or llava",
    )
    export.add_argument(
        "--negative",
        choices=("auto", "rejected", "counterfactual"),
        default="auto",
        help="wrong answer of the original image; auto takes rejected where a row has one",
    )
    export.add_argument(
        "--both-sides", action="store_true", help="also write a row about the near miss itself"
    )
    export.add_argument(
        "--validation", type=float, default=0.0, metavar="SHARE", help="share of images held out"
    )
    export.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the hold-out")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Arguments that name a recipe and change it."""
    parser.add_argument("recipe", metavar="RECIPE", help="name of a shipped recipe, or a YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the recipe: segmenter.min_area=0.01 or shard_size=64; repeatable",
    )
    add_plugins(parser)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """The argument that brings a user's own stages and backends."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="Python file with stages or backends of your own; repeatable",
    )


def positive(text: str) -> int:
    """A whole number from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="run directory: path or URL")


def _add_what(parser: argparse.ArgumentParser, *, needs_input: bool = True) -> None:
    """Arguments that say what is run."""
    add_recipe(parser)
    parser.add_argument("--input", required=needs_input, metavar="PATH", help="file, folder or URL")
    parser.add_argument("--placement", metavar="FILE", help="placement YAML; default: one machine")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N input rows")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="run seed (default 0)")
    parser.add_argument(
        "--columns",
        action="append",
        default=[],
        metavar="FIELD=COLUMN",
        help="input columns: chosen=answer,image=img or preset=rlaif-v; repeatable",
    )
    parser.add_argument("--image-root", metavar="DIR", help="folder of relative image paths")
