"""Presets: every number of a paper, held against a table that was written from the paper's code."""

from __future__ import annotations

import pytest

from trainer.losses import PreferenceLoss
from trainer.settings import Source, load_settings, presets

_ADAMW = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0, "clip_norm": 1.0}
"""Of transformers' Trainer, which all of them use; AdaViP names none other."""


def adamw(rate, warmup, **other):
    """All write a cosine, or leave it at that of OViP's README."""
    return _ADAMW | {"learning_rate": rate, "warmup": warmup, "schedule": "cosine"} | other


def lora(rank, alpha, dropout=0.0):
    return {
        "name": "lora",
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "targets": None,
    }


def full(*, tower):
    return {"name": "full", "vision_tower": tower, "projector": True}


def run(loss, tune, optimizer, batch_size, length, *, max_tokens=None):
    """All that decides the result. All weights learn in float32, adapters rest on bfloat16."""
    return {
        "loss": loss,
        "tune": tune,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "length": length,
        "weights": "float32" if tune["name"] == "full" else "bfloat16",
        "compute": "bfloat16",
        "held_out": 0.0,
        "max_tokens": max_tokens,
        "seed": 0,
    }


PAPERS = {
    # scripts/chip.sh: 4 x 1 x 8 rows.
    "chip": run(
        {
            "name": "chip",
            "beta": 0.1,
            "negative": "rejected",
            "segment_weight": 4.0,
            "token_beta": 0.1,
            "image_weight": 1.0,
        },
        full(tower=False),
        adamw(5e-7, 0.03, clip_norm=20.0),
        32,
        "1 epoch",
        max_tokens=2048,
    ),
    # scripts/v1_5/vdpo.sh: 2 x 4 x 8 rows; betas of llava_dpo/constants.py.
    "vdpo": run(
        {"name": "vdpo", "beta": 0.1, "negative": "rejected", "image_weight": 0.0},
        full(tower=False),
        adamw(1e-6, 0.03, beta2=0.95, weight_decay=0.05),
        64,
        "4 epochs",
        max_tokens=2048,
    ),
    # No code: beta, steps and batch of the paper; the rest of LLaVA-1.5's finetuning script.
    "adavip": run(
        {"name": "adavip", "beta": 0.1, "negative": "rejected"},
        full(tower=False),
        adamw(2e-5, 0.03),
        32,
        "5000 steps",
    ),
    # IC-VCO's second stage with another loss.
    "dpo": run(
        {"name": "dpo", "beta": 0.1, "negative": "rejected"},
        lora(128, 256),
        adamw(5e-6, 0.1),
        64,
        "1 epoch",
    ),
    # vco_trainer.py:145-197, scripts/train.sh:195-294; dropout is off by TRL's disable_dropout.
    "icvco": run(
        {
            "name": "icvco",
            "beta": 0.1,
            "single_weight": 1.75,
            "multi_weight": 0.75,
            "single_anchor_weight": 1.75,
            "multi_anchor_weight": 0.75,
            "anchor_delta": 0.0,
            "vcdist_weight": 0.4,
            "vcdist_threshold": 0.5,
            "anchor_counted_twice": False,
        },
        lora(128, 256),
        adamw(5e-6, 0.1),
        64,
        "1 epoch",
    ),
    # mdpo_trainer.py:92-135, run_mdpo_bunny.py:124-137, config.yaml.
    "mdpo": run(
        {
            "name": "mdpo",
            "beta": 0.1,
            "negative": "rejected",
            "image_weight": 1.0,
            "anchor_weight": 1.0,
            "anchor_delta": 0.0,
        },
        lora(64, 128),
        adamw(1e-5, 0.1, beta2=0.98, weight_decay=0.05),
        32,
        "3 epochs",
        max_tokens=2048,
    ),
    # The README's command (--not_half_dpo_loss, no anchor), 4 processes of 1 row, two epochs.
    "ovip": run(
        {
            "name": "ovip",
            "form": "released",
            "beta": 0.1,
            "negative": "rejected",
            "image_weight": 1.0,
            "anchor_weight": 0.0,
        },
        lora(256, 512),
        adamw(1e-6, 0.0),
        4,
        "2 epochs",
    ),
    # scripts/train.sh:195-294, its first stage.
    "sft-icvco": run(
        {"name": "sft", "mirrored": True},
        lora(128, 256, 0.05),
        adamw(2e-5, 0.1),
        128,
        "1 epoch",
    ),
    # run_svco_example.sh:17-24, run.py:134-147.
    "svco": run(
        {
            "name": "svco",
            "beta_shown": 0.1,
            "beta_absent": 0.1,
            "beta_shown_mirrored": 0.1,
            "beta_absent_mirrored": 0.1,
        },
        full(tower=False),
        adamw(1e-6, 0.05, beta2=0.95, weight_decay=0.02),
        32,
        "1 epoch",
    ),
    # muffin/train/trainers.py:91-146 and the main script: 4 x 4 x 8 rows, everything learns.
    "symmpo": run(
        {
            "name": "symmpo",
            "beta": 0.1,
            "beta_mirrored": 0.1,
            "negative": "rejected",
            "symmetric_weight": 0.5,
            "anchor_weight": 1.0,
            "consistency_weight": 1e-4,
        },
        full(tower=True),
        adamw(5e-6, 0.05, weight_decay=0.01),
        128,
        "4 epochs",
        max_tokens=2048,
    ),
}


def test_every_preset_is_of_a_paper():
    assert set(presets()) == set(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_every_number_is_the_papers(name):
    settings = load_settings(Source(preset=name))
    # The papers shuffle an epoch as a whole, which the window does for data sets of their size.
    ours = {"about", "machine", "keep", "shuffle_window"}
    found = settings.model_dump(mode="json", exclude=ours)
    assert found == PAPERS[name]


@pytest.mark.parametrize("name", PAPERS)
def test_a_preset_says_where_it_is_from_and_makes_its_loss(name):
    settings = load_settings(Source(preset=name))
    assert isinstance(settings.loss, PreferenceLoss)
    assert settings.loss.views
    assert settings.about
    text = presets()[name].read_text("utf-8")
    assert "arXiv" in text or "IC-VCO" in text


def test_the_papers_steps_come_out():
    # IC-VCO: about 304 steps on 19,453 rows; SymMPO: 670 steps on 21.4k rows.
    assert load_settings(Source(preset="icvco")).num_steps(19_453) == 304
    assert load_settings(Source(preset="symmpo")).num_steps(21_400) == pytest.approx(670, abs=3)
    assert load_settings(Source(preset="adavip")).num_steps(1) == 5000
