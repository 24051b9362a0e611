"""What each command does with its parsed arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping

from pipeline.cli.listings import list_presets, list_recipes, list_settings
from pipeline.engine.placement import load_placement
from pipeline.errors import UsageError
from pipeline.export import Wanted, export_run
from pipeline.inspect.doctor import doctor
from pipeline.inspect.models import look
from pipeline.inspect.plan import plan
from pipeline.inspect.show import show
from pipeline.inspect.status import status
from pipeline.recipes.build import RecipeBook, load_recipe
from pipeline.recipes.plugins import stages_with
from pipeline.run import Exit, Request, run
from pipeline.run_folder import RunFolder
from pipeline.sources import Source, open_source


def _run(args: argparse.Namespace) -> int:
    request = Request(
        book=_book(args),
        placement=load_placement(args.placement),
        source=_source(args),
        output=args.output,
        seed=args.seed,
        limit=args.limit,
        local=args.local,
        retry_errors=args.retry_errors,
    )
    return run(request)


def _plan(args: argparse.Namespace) -> int:
    book, placement = _book(args), load_placement(args.placement)
    sys.stdout.write(plan(book, placement, _source(args), args.limit) + "\n")
    return Exit.COMPLETE


def _status(args: argparse.Namespace) -> int:
    text, complete = status(args.run, as_json=args.json)
    sys.stdout.write(text + "\n")
    return Exit.COMPLETE if complete else Exit.INCOMPLETE


def _report(args: argparse.Namespace) -> int:
    sys.stdout.write(f"{RunFolder.open(args.run).write_report()}\n")
    return Exit.COMPLETE


def _show(args: argparse.Namespace) -> int:
    facts = RunFolder.open(args.run).info.report_facts()
    try:
        text = show(args.run, args.pair_id, facts=facts, images_to=args.images_to)
        sys.stdout.write(text + "\n")
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Exit.COMPLETE


def _doctor(args: argparse.Namespace) -> int:
    text, well = doctor(
        _book(args),
        load_placement(args.placement),
        _source(args) if args.input else None,
        args.output,
    )
    sys.stdout.write(text + "\n")
    return Exit.COMPLETE if well else Exit.FAILED


def _models(args: argparse.Namespace) -> int:
    text, whole = look(_book(args), download=args.action == "pull")
    sys.stdout.write(text + "\n")
    return Exit.COMPLETE if whole else Exit.FAILED


def _export(args: argparse.Namespace) -> int:
    wanted = Wanted(args.negative, args.both_sides, args.validation, args.seed)
    facts = export_run(args.run, args.format, args.output, wanted)
    sys.stdout.write(facts.text(args.output) + "\n")
    return Exit.COMPLETE


def _recipes(args: argparse.Namespace) -> int:
    sys.stdout.write(list_recipes(args.name, stages_with(args.plugin)) + "\n")
    return Exit.COMPLETE


def _settings(args: argparse.Namespace) -> int:
    stages = stages_with(args.plugin)
    sys.stdout.write(list_settings(args.name, args.choice, stages) + "\n")
    return Exit.COMPLETE


def _presets(args: argparse.Namespace) -> int:
    sys.stdout.write(list_presets(args.name) + "\n")
    return Exit.COMPLETE


def _book(args: argparse.Namespace) -> RecipeBook:
    return load_recipe(args.recipe, args.set, stages_with(args.plugin))


def _source(args: argparse.Namespace) -> Source:
    columns: dict[str, str] = {}
    for text in args.columns:
        for part in text.split(","):
            field, sign, column = part.partition("=")
            # Without a column (`id=`) the field is switched off.
            if not sign or not field:
                raise UsageError(f"--columns {part}: write it as field=column, e.g. chosen=answer")
            columns[field] = column
    return open_source(args.input, columns, args.image_root)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "plan": _plan,
    "status": _status,
    "report": _report,
    "show": _show,
    "export": _export,
    "doctor": _doctor,
    "models": _models,
    "recipes": _recipes,
    "settings": _settings,
    "presets": _presets,
}
