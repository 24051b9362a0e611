"""Settings: presets load, overrides lay over, and every slip is one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.losses import PreferenceLoss
from trainer.settings import Full, Lora, Source, load_settings, presets

PAPERS = {
    # Name: loss, what learns, rate, rows a step, length; from the papers' scripts.
    "adavip": ("adavip", Full, 2e-5, 32, "5000 steps"),
    "dpo": ("dpo", Lora, 5e-6, 64, "1 epoch"),
    "icvco": ("icvco", Lora, 5e-6, 64, "1 epoch"),
    "mdpo": ("mdpo", Lora, 1e-5, 32, "3 epochs"),
    "ovip": ("ovip", Lora, 1e-6, 4, "2 epochs"),
    "sft-icvco": ("sft", Lora, 2e-5, 128, "1 epoch"),
    "svco": ("svco", Full, 1e-6, 32, "1 epoch"),
    "symmpo": ("symmpo", Full, 5e-6, 128, "4 epochs"),
}


def test_every_preset_is_of_a_paper():
    assert set(presets()) == set(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_presets_load_and_build_their_loss(name):
    settings = load_settings(Source(preset=name))
    loss, tune, rate, batch_size, length = PAPERS[name]
    assert isinstance(settings.loss, PreferenceLoss)
    assert settings.loss.views
    assert settings.loss.name == loss
    assert isinstance(settings.tune, tune)
    assert settings.optimizer.learning_rate == rate
    assert (settings.batch_size, settings.length) == (batch_size, length)
    assert settings.about
    # What the file says of the loss is all that there is to say, so that a reader sees it all.
    text = presets()[name].read_text("utf-8")
    assert "arXiv" in text or "IC-VCO" in text


def test_the_papers_steps_come_out():
    # IC-VCO: about 304 steps on 19,453 rows; SymMPO: 670 steps on 21.4k rows.
    assert load_settings(Source(preset="icvco")).num_steps(19_453) == 304
    assert load_settings(Source(preset="symmpo")).num_steps(21_400) == pytest.approx(670, abs=3)
    assert load_settings(Source(preset="adavip")).num_steps(1) == 5000


def test_later_sources_lie_over_earlier_ones(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("optimizer: {learning_rate: 3.0e-6}\nbatch_size: 16\n")
    source = Source("icvco", file, ["batch_size=8", "loss.vcdist_weight=0"])
    settings = load_settings(source)
    assert settings.optimizer.learning_rate == 3e-6
    assert settings.optimizer.warmup == 0.1
    assert settings.batch_size == 8
    assert settings.loss.vcdist_weight == 0


def test_another_name_replaces_a_section_whole():
    settings = load_settings(Source("icvco", overrides=["loss.name=dpo"]))
    assert settings.loss.name == "dpo"
    full = load_settings(Source("icvco", overrides=["weights=float32", "tune.name=full"]))
    assert isinstance(full.tune, Full)


def test_the_digest_is_of_what_decides_the_result():
    plain = load_settings(Source("icvco"))

    def digest(text):
        return load_settings(Source("icvco", overrides=[text])).digest

    for same in ("machine.device=cpu", "machine.micro_batch=4", "keep.checkpoints=9", "about=x"):
        assert digest(same) == plain.digest
    for other in ("seed=1", "loss.beta=0.2", "max_tokens=99", "tune.rank=8", "held_out=0.1"):
        assert digest(other) != plain.digest


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss.bta=1", "loss.dpo.bta: unknown key"),
        ("loss.name=foo", "'icvco'"),
        ("loss.beta=-1", "greater than 0"),
        ("optimizer.warmup=2", "less than or equal to 1"),
        ("length=0 epochs", "length"),
        ("machine.device=tpu", "'cuda' or 'cpu'"),
        ("tune.rank=0", "tune.lora.rank"),
        ("compute=float32", "set weights: float32"),
        ("tune.name=full", "set weights: float32"),
        ("rank", "write it as key=value"),
        ("a..b=1", "write it as key=value"),
        ("seed=[", "not YAML"),
    ],
)
def test_a_slip_is_one_line_that_names_it(override, said):
    with pytest.raises(UsageError) as caught:
        load_settings(Source("dpo", overrides=[override]))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert override.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source(), "--preset"),
        (Source("icvc"), "'icvc'; shipped: adavip"),
        (Source(file=Path("nowhere.yaml")), "does not exist"),
    ],
)
def test_sources_that_are_not_there(source, said):
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        load_settings(source)
    assert said in str(caught.value)


def test_files_that_are_no_settings(tmp_path):
    file = tmp_path / "x.yaml"
    for text, said in (("a: [", "cannot be read"), ("- 1", "must hold a mapping")):
        file.write_text(text)
        with pytest.raises(UsageError, match=said):
            load_settings(Source(file=file))
