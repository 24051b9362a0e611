"""The page: one HTML file with its styles, script and images inside."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import jinja2
from markupsafe import Markup

from pipeline.report.cards import Card, make_card
from pipeline.report.charts import HEIGHT, WIDTH, charts
from pipeline.report.facts import RunFacts
from pipeline.report.parts import lines, rows, shards_of
from pipeline.report.sampling import Sample, Stratum, choose
from pipeline.report.survey import Survey, survey
from pipeline.report.words import explain
from schemas.files import Folder
from schemas.outcomes import DROP, PAIR

REPORT_NAME = "report.html"
CARDS_BYTES = 6_500_000
"""The cards of a page, images included, stay below this; further samples are left out."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class _Rendered:
    card: Card
    html: Markup


def write_report(run_dir: str, facts: RunFacts, *, samples: int = 90) -> str:
    """Write `report.html` into the run directory; returns its path or URL.

    At most `samples` rows are shown, fewer where their images would make the page too heavy. The
    same parts and facts give the same bytes. ValueError if `run_dir` is not a run directory or a
    part of it cannot be read.
    """
    if samples < 0:
        raise ValueError(f"samples must be 0 or more, got {samples}")
    run = Folder.at(run_dir)
    # Listed once: a part that appears while the report is made does not appear in half of it.
    shards = shards_of(run)
    found = survey(lines(run, shards), facts)
    chosen = choose(lines(run, shards), found, facts, samples)
    templates = _templates()
    cards = _render(run, chosen, found, facts, templates.get_template("card.html.jinja"))
    page = templates.get_template("report.html.jinja").render(
        facts=facts,
        found=found,
        recipes=_recipes(found),
        reasons=_reasons(found),
        charts=charts(found, facts),
        chart_size=(WIDTH, HEIGHT),
        pairs=[c.html for c in cards if c.card.status == PAIR],
        drops=[c.html for c in _by_reason(cards, found)],
        choices=_choices([c.card for c in cards]),
        complete=found.num_seeds == facts.num_seeds,
        css=_asset("report.css"),
        js=_asset("report.js"),
        js_hash=base64.b64encode(sha256(_asset("report.js").encode()).digest()).decode(),
    )
    run.write(REPORT_NAME, page.encode())
    return run.join(REPORT_NAME)


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    environment.filters["words"] = lambda name: name.replace("_", " ")
    return environment


def _asset(name: str) -> Markup:
    # Our own files, not data of the run: they go into the page as they are.
    return Markup(_HERE.joinpath(name).read_text(encoding="utf-8"))  # noqa: S704


def _render(
    run: Folder,
    chosen: Sequence[Sample],
    found: Survey,
    facts: RunFacts,
    template: jinja2.Template,
) -> list[_Rendered]:
    """The cards in the order chosen, as many as fit the page."""
    numbers = {sample.line.at: number for number, sample in enumerate(chosen, start=1)}
    rendered: list[_Rendered | None] = [None] * len(chosen)
    # Rows come in the order of the parts, so that each is read once.
    for at, row in rows(run, numbers):
        number = numbers[at]
        card = make_card(number, chosen[number - 1], row, found, facts)
        html = Markup(template.render(card=card))  # noqa: S704 - the template escapes
        rendered[number - 1] = _Rendered(card, html)
    return list(_fitting(r for r in rendered if r is not None))


def _fitting(cards: Iterator[_Rendered]) -> Iterator[_Rendered]:
    size = 0
    for rendered in cards:
        size += len(rendered.html.encode())
        if size > CARDS_BYTES:
            return
        yield rendered


def _by_reason(cards: Sequence[_Rendered], found: Survey) -> list[_Rendered]:
    """The drops, those of the commonest reason first."""
    drops = [c for c in cards if c.card.status == DROP]
    return sorted(drops, key=lambda c: (-found.reasons[c.card.reason], c.card.reason))


def _recipes(found: Survey) -> list[tuple[str, int, int, float]]:
    """Recipe, pairs, drops, share of pairs in percent."""
    table = []
    for recipe in found.recipe_names:
        pairs, drops = found.recipes[recipe, PAIR], found.recipes[recipe, DROP]
        table.append((recipe, pairs, drops, round(100 * pairs / max(pairs + drops, 1), 1)))
    return table


def _reasons(found: Survey) -> list[tuple[str, int, float, str]]:
    """Reason, drops, length of its bar in percent, explanation; the commonest first."""
    ordered = sorted(found.reasons.items(), key=lambda item: (-item[1], item[0]))
    most = ordered[0][1] if ordered else 1
    return [(name, n, round(100 * n / most, 1), explain(name)) for name, n in ordered]


def _choices(cards: Sequence[Card]) -> list[tuple[str, str, list[str]]]:
    """What each filter offers: its key, its title, its values; only values that are shown."""
    return [
        ("status", "Status", sorted({c.status for c in cards}, reverse=True)),
        ("recipe", "Recipe", sorted({c.recipe for c in cards})),
        ("kind", "Contrast", sorted({c.kind for c in cards if c.kind})),
        ("reason", "Reason", sorted({c.reason for c in cards if c.reason})),
        ("stratum", "Sample", [s for s in Stratum if any(s in c.strata for c in cards)]),
    ]
