"""What the commands of `arguments.py` do; `pipeline.__main__` says their errors."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.files import Folder
from trainer.errors import UsageError
from trainer.run.stop import by_signal
from trainer.settings import Settings, Source, load_settings

log = logging.getLogger("trainer")


def _train(args: argparse.Namespace) -> int:
    from trainer.model.processes import leave  # noqa: PLC0415  so that bad settings answer at once
    from trainer.run.progress import ProgressLine  # noqa: PLC0415  likewise
    from trainer.run.train import Request, train  # noqa: PLC0415  likewise

    settings = _settings(args)
    _quiet()
    request = Request(
        shards=tuple(args.shards),
        model=args.model,
        settings=settings,
        out=_local(args.output),
        revision=args.revision,
        reference=_local(args.reference) if args.reference else None,
    )
    if args.ray_workers:
        from trainer.run.on_ray import train_on_ray  # noqa: PLC0415  Ray, for those who have a cluster

        outcome = train_on_ray(request, args.ray_workers)
    else:
        with ProgressLine() as progress, by_signal() as stop_check:
            outcome = train(request, progress, stop_check)
        leave()
    if not outcome.complete:
        log.warning(
            "stopped after step %d of %d; the same command resumes", outcome.step, outcome.num_steps
        )
        return 3
    log.info("complete: %s", request.out / "final" / "weights")
    return 0


def _precompute(args: argparse.Namespace) -> int:
    from trainer.model.precompute import precompute_reference  # noqa: PLC0415  see `_train`

    settings = _settings(args)
    _quiet()
    out = _local(args.output)
    rows = precompute_reference(tuple(args.shards), args.model, args.revision, settings, out)
    log.info("wrote %s: the reference of %d rows", out, rows)
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    from trainer.evaluate.judges import judge_of, rows_for  # noqa: PLC0415  see `_train`
    from trainer.evaluate.run import evaluate  # noqa: PLC0415  likewise

    if args.held_out and not args.run:
        raise UsageError("--held-out needs --run, whose settings define what was held out")
    _quiet()
    run = _local(args.run) if args.run else None
    rows = rows_for(tuple(args.shards), run if args.held_out else None, args.limit)
    judge = judge_of(
        run if run is not None else args.model,
        args.revision,
        device=args.device,
        weights=args.weights,
        micro_batch=args.micro_batch,
    )
    report = evaluate(rows, judge, with_pope=not args.no_pope)
    if args.output:
        out = _local(args.output)
        Folder.at(str(out.parent)).write_json(out.name, asdict(report))
    console = Console(file=sys.stdout)
    for table in report_tables(asdict(report)):
        console.print(table)
    return 0


def _merge(args: argparse.Namespace) -> int:
    from trainer.run.merge import merge  # noqa: PLC0415  see `_train`

    _quiet()
    out = merge(_local(args.run), _local(args.output), model=args.model, dtype=args.dtype)
    log.info("wrote %s", out)
    return 0


def _export_eval(args: argparse.Namespace) -> int:
    from trainer.evaluate.export import export  # noqa: PLC0415  see `_train`

    model = _local(args.model)
    out = export(model, _local(args.output), args.name or model.name)
    log.info("wrote %s; %s says how to use it", out, out / "commands.sh")
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "evaluate": _evaluate,
    "precompute": _precompute,
    "merge": _merge,
    "export-eval": _export_eval,
}


def report_tables(report: Mapping[str, Any]) -> list[Table]:
    """A report of `trainer.evaluate.run` as tables for a terminal."""
    probe = Table(title=f"probe, {report['pairs']} pairs: share right, its 95 % interval, nats")
    for name in ("kind", "shown", "nats", "mirrored", "nats", "both", "images"):
        probe.add_column(name, justify="left" if name == "kind" else "right")
    for line in report["probe"]:
        probe.add_row(
            line["kind"],
            _share(line["shown"]),
            _nats(line["shown_margin"]),
            _share(line["mirrored"]),
            _nats(line["mirrored_margin"]),
            _share(line["both"]),
            Text(str(line["shown"]["images"])),
        )
    tables = [probe]
    if report["pope"]:
        pope = Table(title=f"yes/no questions, {report['questions']} (as POPE)")
        for name in ("set", "accuracy", "precision", "recall", "F1", "yes"):
            pope.add_column(name, justify="left" if name == "set" else "right")
        for line in report["pope"]:
            numbers = (line[name] for name in ("precision", "recall", "f1", "yes_ratio"))
            cells = ("-" if number is None else f"{number:.3f}" for number in numbers)
            pope.add_row(line["chosen_by"], _share(line["accuracy"]), *cells)
        tables.append(pope)
    return tables


def _share(estimate: Mapping[str, Any] | None) -> Text:
    if estimate is None:
        return Text("-")
    return Text("{value:.3f}\n{low:.2f}-{high:.2f}".format_map(estimate))


def _nats(estimate: Mapping[str, Any] | None) -> Text:
    return Text("-" if estimate is None else f"{estimate['value']:+.2f}")


def _settings(args: argparse.Namespace) -> Settings:
    file = Path(args.config) if args.config else None
    return load_settings(Source(args.preset, file, args.set))


def _local(path: str) -> Path:
    if "://" in path:
        raise UsageError(
            f"{path} is a URL; give a path on a mounted file system: checkpoints are renamed into "
            "place, which object stores cannot do"
        )
    return Path(path).resolve()


def _quiet() -> None:
    """No progress bars and advice of libraries between our own lines."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415  see `_train`

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", module=r"torch\..*|accelerate\..*|peft\..*")
    if os.environ.get("RANK", "0") != "0":
        logging.getLogger().setLevel(logging.WARNING)
