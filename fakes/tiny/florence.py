"""Florence-2, tiny, which has learned to find two things: so that its words are worth reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    BartConfig,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    PreTrainedTokenizerFast,
)

SIDE = 64
PROMPT = "Locate the objects with category name in the image."
WRITTEN = {
    (
        200,
        40,
        30,
    ): "dog<loc_100><loc_200><loc_500><loc_600>red panda<loc_0><loc_0><loc_300><loc_999>",
    (30, 60, 200): "cat<loc_250><loc_250><loc_750><loc_750><loc_800><loc_800><loc_900><loc_900>",
    (90, 90, 90): "",
}
"""What it writes of an image of one colour."""


def plain(color: tuple[int, int, int], height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """An image of one colour with a little noise."""
    noise = np.random.default_rng(sum(color)).integers(-8, 9, (height, width, 3))
    return (np.array(color) + noise).clip(0, 255).astype(np.uint8)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few words, with the special tokens of BART and the places."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    raw = Tokenizer(BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    raw.train_from_iterator(["dog cat red panda " * 5], trainer)
    places = [f"<loc_{i}>" for i in range(1000)]
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    made.add_tokens(places, special_tokens=True)
    return made


def save_florence(folder: Path, seed: int = 0) -> Path:
    """A checkpoint with its processor."""
    words = tokenizer()
    vision = Florence2VisionConfig(
        depths=[1, 1],
        patch_size=[7, 3],
        patch_stride=[8, 4],
        patch_padding=[3, 1],
        patch_prenorm=[False, True],
        embed_dim=[16, 32],
        num_heads=[2, 2],
        num_groups=[2, 2],
        window_size=2,
        projection_dim=32,
        drop_path_rate=0.0,
    )
    text = BartConfig(
        vocab_size=len(words),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        dropout=0.0,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    config = Florence2Config(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    image = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, do_center_crop=False, image_seq_length=5
    )
    processor = Florence2Processor(image_processor=image, tokenizer=words)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Florence2ForConditionalGeneration(config)
        _teach(model, processor)
        model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _teach(model, processor):
    inputs = processor(
        images=[plain(color) for color in WRITTEN],
        text=["<OD>"] * len(WRITTEN),
        return_tensors="pt",
    )
    texts = [f"<s>{text}</s>" for text in WRITTEN.values()]
    labels = processor.tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    targets = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    start = torch.full((len(texts), 1), 2)
    known = torch.cat([start, labels["input_ids"][:, :-1]], 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0)
    model.train()
    loss = torch.tensor(1.0)
    # Several threads on so small a model wait for each other for minutes on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    while loss > 0.05:
        logits = model(**inputs, decoder_input_ids=known).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.eval()
