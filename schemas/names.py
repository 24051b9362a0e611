"""The one sentence about a name that nobody knows: a stage, key, format, preset or family."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not among `known`: the name, the nearest one, all of them.

    `what` is the kind of thing, in the singular: "stage", "key of detector", "preset". The caller
    says in front of it where the name stands ("recipe mine: "). `known` keeps its order.
    """
    names = list(dict.fromkeys(known))
    if not names:
        return f"unknown {what} {name!r}; there are none"
    near = get_close_matches(name.lower(), [known.lower() for known in names], n=1)
    guess = next((f"; did you mean {x}?" for x in names if near and x.lower() == near[0]), "")
    return f"unknown {what} {name!r}{guess or ';'} known are {', '.join(names)}"
