"""Grounding DINO as its authors save it, small and with random weights. Needs groundingdino-py."""

from __future__ import annotations

from pathlib import Path

import groundingdino
import torch
from groundingdino.models import build_model
from groundingdino.util.slconfig import SLConfig
from transformers import BertConfig, BertModel, BertTokenizer

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "red", "panda", "table"]


def save_original_dino(folder: Path, seed: int = 0) -> dict[str, str]:
    """`model`, `config` and `text_encoder` for the backend."""
    bert = folder / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
    packaged = Path(groundingdino.__file__).parent / "config" / "GroundingDINO_SwinT_OGC.py"
    text = packaged.read_text("utf-8")
    for old, new in (
        ("enc_layers = 6", "enc_layers = 1"),
        ("dec_layers = 6", "dec_layers = 2"),
        ("dim_feedforward = 2048", "dim_feedforward = 64"),
        ("num_queries = 900", "num_queries = 30"),
    ):
        assert old in text
        text = text.replace(old, new)
    config = folder / "tiny.py"
    config.write_text(text)
    settings = SLConfig.fromfile(str(config))
    settings.device, settings.text_encoder_type = "cpu", str(bert)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        shape = BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
        )
        BertModel(shape).save_pretrained(bert)
        model = build_model(settings)
    path = folder / "groundingdino_tiny.pth"
    # As training left it: under "model", with the prefix of data parallelism.
    torch.save({"model": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    return {"model": str(path), "config": str(config), "text_encoder": str(bert)}
