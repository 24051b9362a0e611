"""The parser of `nearmiss`: its commands in groups. Imports nothing that is slow to load."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from textwrap import dedent
from typing import Any, NoReturn

from pipeline.cli.arguments import add_export, add_look, add_make
from pipeline.cli.learn import add_learn
from schemas.names import unknown
from trainer.arguments import add_train


class Parser(argparse.ArgumentParser):
    """Says a slip in one line, as all errors are said; takes no abbreviation for an option."""

    def __init__(self, **more: Any) -> None:
        super().__init__(allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        """One line and exit status 2."""
        self.exit(2, f"nearmiss: {' '.join(message.split())}; see {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = "command" if isinstance(action, argparse._SubParsersAction) else "value"  # noqa: SLF001  # nothing else tells
            raise argparse.ArgumentError(
                None if what == "command" else action, unknown(what, str(value), action.choices)
            )


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Asks git and the package's metadata, which a command that runs does not need."""
        from pipeline.version import code_version  # noqa: PLC0415

        sys.stdout.write(f"nearmiss {code_version()}\n")
        parser.exit()


class Commands:
    """Adds commands to a parser, in groups as its help shows them."""

    def __init__(self, parser: Parser) -> None:
        self._adder = parser.add_subparsers(
            dest="command",
            required=True,
            metavar="COMMAND",
            help=argparse.SUPPRESS,
            prog=parser.prog,
        )
        self._lines: list[str] = []

    def group(self, title: str) -> None:
        """Begin a group; `title` says what its commands are for."""
        self._lines += ["", f"{title}:"]

    def add(self, name: str, about: str, more: str = "") -> argparse.ArgumentParser:
        """A command with its line in the help; `more` stands in its own help alone."""
        self._lines.append(f"  {name:<12} {about}")
        text = f"{about[0].upper()}{about[1:]}."
        return self._adder.add_parser(name, description=f"{text} {more}".strip())

    def __str__(self) -> str:
        """All commands in their groups."""
        return "\n".join(self._lines).strip()


def make_parser(prog: str = "nearmiss") -> Parser:
    """The parser; `prog` is what was typed to come here."""
    parser = Parser(
        prog=prog,
        usage=f"{prog} [--help] [--version] [--verbose] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=dedent(
            f"""\
            `{prog} COMMAND --help` lists a command's arguments.
            Exit status: 0 complete, 1 failed, 2 bad usage or input, 3 incomplete or interrupted;
            after 3 the same command goes on."""
        ),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    parser.add_argument("--verbose", action="store_true", help="show the traceback of a failure")
    commands = Commands(parser)
    for title, add in (
        ("Make pairs", add_make),
        ("Look at a run", add_look),
        ("Publish pairs", add_export),
        ("Train on pairs", add_train),
        ("Learn what there is to choose from", add_learn),
    ):
        commands.group(title)
        add(commands.add)
    parser.description = (
        "Make hard-negative image pairs from annotated images, and align vision-language models "
        f"with them.\n\n{commands}"
    )
    return parser


def parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The arguments; ends the process with status 2 and one line for a slip in them."""
    return make_parser(prog).parse_args(argv)
