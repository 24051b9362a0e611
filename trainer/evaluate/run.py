"""The probe and the questions, asked of a model over the pairs of finished runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from schemas.records import Span
from trainer.data.batches import Batch, BatchBuilder
from trainer.data.fits import Fit, fit_groups
from trainer.data.rows import Row, Rows
from trainer.evaluate import pope, probe
from trainer.families import Family
from trainer.losses import LogProbs
from trainer.losses.views import Answer, Images, Tokens, View, columns

log = logging.getLogger(__name__)

YES, NO = "Yes", "No"
_SEED = 0
"""The probe's views draw nothing; the questions draw from it."""
_OWN = frozenset({probe.SHOWN, probe.SWAPPED})
_MIRRORED = frozenset({probe.MIRRORED_SHOWN, probe.MIRRORED_SWAPPED})


@dataclass(frozen=True)
class Judge:
    """A model as the evaluation sees it."""

    family: Family
    """Its processor."""
    forward: Callable[[Batch], LogProbs]
    """Log-probs of a batch, without gradient."""
    device: torch.device
    """Where the model is."""
    share_prompts: bool
    """As in `BatchBuilder`."""
    micro_batch: int
    """Rows of one forward."""

    def ask(self, views: frozenset[View], rows: Iterable[Row]) -> Iterator[dict[View, float]]:
        """The cells of each row, in order, in nats."""
        build = BatchBuilder(self.family, views, _SEED, self.share_prompts)
        for some in _in_batches(rows, self.micro_batch):
            batch = build(some, 0).to(self.device)
            with torch.no_grad():
                table = {view: x.tolist() for view, x in self.forward(batch).items()}
            for number in range(len(some)):
                yield {view: values[number] for view, values in table.items()}


@dataclass(frozen=True)
class Report:
    """What came out."""

    pairs: int
    """Pairs of the probe."""
    left_out: str
    """How many pairs were not asked about, and why."""
    probe: list[probe.ProbeLine]
    """See `probe.summarise`."""
    questions: int
    """Yes/no questions asked."""
    pope: list[pope.PopeLine]
    """See `pope.score`."""


def evaluate(rows: Rows, judge: Judge, *, with_pope: bool) -> Report:
    """The probe over the rows, and questions about their regions.

    UsageError where no row can be used.
    """
    usable, counts = rows.usable(columns(_OWN), "the probe")
    readable, fits = _readable(usable, judge)
    log.info("%s; %s", counts, fits)
    lines = probe.summarise(list(_probe_rows(readable, judge)))
    asked = pope.questions(list(_scenes(readable)), _SEED) if with_pope else []
    said = _answers(readable, asked, judge)
    return Report(len(readable), f"{counts}; {fits}", lines, len(asked), pope.score(asked, said))


def _readable(rows: Rows, judge: Judge) -> tuple[Rows, Fit]:
    """The rows of which all cells of the probe fit, in order, and a report."""
    groups = [(some, BatchBuilder(judge.family, views, _SEED)) for views, some in _by_views(rows)]
    kept, fits = fit_groups(groups, None)
    ids = {pair_id for some in kept for pair_id in some.pair_ids}
    return rows.select(n for n, pair_id in enumerate(rows.pair_ids) if pair_id in ids), fits


def _by_views(rows: Rows) -> Iterator[tuple[frozenset[View], Rows]]:
    """The pairs with a counterfactual and then those without, each with the cells they have."""
    mirrored = np.array(
        [bool(text) for text in rows.columns(["counterfactual"])[0].to_pylist()], dtype=bool
    )
    for views, numbers in ((_OWN | _MIRRORED, mirrored), (_OWN, ~mirrored)):
        yield views, rows.select(np.flatnonzero(numbers))


def _probe_rows(rows: Rows, judge: Judge) -> Iterator[probe.ProbeRow]:
    """The cells of each pair; pairs with a counterfactual first, then the others."""
    for views, some in _by_views(rows):
        kinds = [contrast["kind"] for contrast in some.columns(["contrast"])[0].to_pylist()]
        facts = zip(some.pair_ids, some.images, kinds, judge.ask(views, _each(some)), strict=True)
        for pair_id, image, kind, cells in facts:
            yield probe.ProbeRow(pair_id, image, kind, cells)


def _scenes(rows: Rows) -> Iterator[pope.Scene]:
    texts = ["prompt", "chosen", "rejected", "counterfactual"]
    table = rows.columns(["pair_id", "contrast", "regions", *texts]).to_pylist()
    for row, image in zip(table, rows.images, strict=True):
        yield pope.Scene(
            pair_id=row["pair_id"],
            image=image,
            kind=row["contrast"]["kind"],
            replacement=row["contrast"]["replacement"],
            labels=tuple(region["label"] for region in row["regions"]),
            text=" ".join(row[name] or "" for name in texts),
        )


def _answers(rows: Rows, asked: Sequence[pope.Question], judge: Judge) -> list[bool]:
    """Whether "Yes" is likelier than "No", end-of-turn not counted; in the questions' order."""
    number = {pair_id: i for i, pair_id in enumerate(rows.pair_ids)}
    said: dict[pope.Question, bool] = {}
    for shown in (Images.CHOSEN, Images.REJECTED):
        yes = View(shown, Answer.CHOSEN, Tokens.SPANS)
        no = View(shown, Answer.COUNTERFACTUAL, Tokens.SPANS)
        some = [question for question in asked if question.shown is shown]
        spoken = (_question_row(rows[number[q.pair_id]], q) for q in some)
        for question, cells in zip(some, judge.ask(frozenset({yes, no}), spoken), strict=True):
            said[question] = cells[yes] > cells[no]
    return [said[question] for question in asked]


def _question_row(row: Row, question: pope.Question) -> Row:
    """The pair with the question for its prompt, and "Yes" and "No" for its answers."""
    return replace(
        row,
        prompt=question.prompt,
        chosen=YES,
        counterfactual=NO,
        chosen_spans=(Span(0, len(YES)),),
        counterfactual_spans=(Span(0, len(NO)),),
    )


def _each(rows: Rows) -> Iterator[Row]:
    return (rows[number] for number in range(len(rows)))


def _in_batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    some: list[Row] = []
    for row in rows:
        some.append(row)
        if len(some) == size:
            yield some
            some = []
    if some:
        yield some
