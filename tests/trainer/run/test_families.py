"""From training to evaluation, with families whose images are several tiles in one prompt."""

from __future__ import annotations

import pytest

from fakes.pairs import a_pair, save
from tests.trainer.training import Watch, settings
from trainer.data.rows import Rows
from trainer.evaluate.judges import judge_of
from trainer.evaluate.run import evaluate
from trainer.run.merge import merge
from trainer.run.train import Request, train


@pytest.mark.parametrize("family", ["internvl", "idefics3"])
def test_what_is_trained_is_what_is_evaluated_and_merged(checkpoint, tmp_path, family):
    run = save(tmp_path / "run", [a_pair(n) for n in range(4)])
    base = checkpoint(family).path
    for preset, out in (("icvco", tmp_path / "lora"), ("svco", tmp_path / "full")):
        watch = Watch()
        asked = settings(preset, "length=2 steps")
        assert train(Request((run,), str(base), asked, out), watch).complete
        assert watch.losses[1] != watch.losses[2]

        def probed(model):
            judge = judge_of(model, None, device="cpu", weights="float32", micro_batch=2)
            return evaluate(Rows.open([run]), judge, with_pope=False).probe[0].shown_margin.value

        trained = probed(out)
        assert probed(str(merge(out, out / "merged"))) == pytest.approx(trained, abs=1e-4)
        assert abs(trained - probed(str(base))) > 1e-3
