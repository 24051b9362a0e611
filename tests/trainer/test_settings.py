"""Settings: later sources lie over earlier ones, and every slip is one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import UsageError
from trainer.settings import Full, Source, load_settings


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

    for same in ("machine.device=cpu", "machine.shard=true", "keep.checkpoints=9", "about=x"):
        assert digest(same) == plain.digest
    for other in ("seed=1", "loss.beta=0.2", "max_tokens=99", "tune.rank=8", "held_out=0.1"):
        assert digest(other) != plain.digest


@pytest.mark.parametrize(
    ("preset", "override", "decides"),
    [
        ("dpo", "seed=0", False),
        ("dpo", "tune.dropout=0.1", True),
        ("sft-icvco", "seed=0", True),
        ("sft-icvco", "tune.dropout=0", False),
        ("icvco", "seed=0", True),
        ("icvco", "loss.vcdist_weight=0", False),
        ("svco", "seed=0", False),
    ],
)
def test_the_micro_batch_decides_where_rows_are_mixed(preset, override, decides):
    one, eight = (
        load_settings(Source(preset, overrides=[override, f"machine.micro_batch={size}"]))
        for size in (1, 8)
    )
    assert one.micro_batch_decides is decides
    assert (one.digest != eight.digest) is decides


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss.name=mdp", "unknown loss 'mdp'; did you mean mdpo?"),
        ("loss.bta=1", "loss.dpo: unknown key 'bta'; did you mean beta?"),
        ("loss.name=foo", "unknown loss 'foo'; known are dpo, "),
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
        (Source("icvc"), "unknown preset 'icvc'; did you mean icvco?"),
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
