"""The evaluation over shards: every pair is asked what it has cells for."""

from __future__ import annotations

import pytest
import torch

from fakes.pairs import a_pair, save
from trainer.data.rows import Rows
from trainer.errors import UsageError
from trainer.evaluate.judges import judge_of
from trainer.evaluate.run import evaluate


@pytest.fixture
def report_of(checkpoint, tmp_path):
    torch.set_num_threads(1)
    judge = judge_of(
        str(checkpoint("llava-1.5").path), None, device="cpu", weights="float32", micro_batch=2
    )

    def make(*pairs):
        return evaluate(Rows.open([save(tmp_path, pairs)]), judge, with_pope=True)

    return make


def test_a_long_pair_without_counterfactual_is_asked_what_it_has(report_of):
    """So long that its tokens are counted, though it fits: 323 characters may be 969 tokens."""
    answer = ("The ring is purple. " * 17)[:323]
    long = a_pair(1, chosen=answer, counterfactual=None, counterfactual_spans=())
    report = report_of(long, a_pair(0))
    assert report.pairs == 2
    everything = report.probe[0]
    assert (everything.shown.rows, everything.mirrored.rows) == (2, 1)
    assert "all 2 rows fit" in report.left_out


def test_what_does_not_fit_is_left_out_with_and_without_counterfactual(report_of):
    endless = "The ring is purple. " * 300
    alone = a_pair(1, chosen=endless, counterfactual=None, counterfactual_spans=())
    report = report_of(alone, a_pair(2, counterfactual=endless), a_pair(0))
    assert report.pairs == 1
    assert "of 3 rows 2 have more than 1024 tokens; 1 are left" in report.left_out


def test_nothing_that_fits_is_an_error(report_of):
    endless = "The ring is purple. " * 300
    with pytest.raises(UsageError, match="0 are left"):
        report_of(a_pair(0, chosen=endless))
