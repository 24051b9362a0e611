"""What each family's processor makes of prompts and images, held against its own call."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.image_utils import SizeDict

import trainer
from fakes.pairs import SIZES
from fakes.tiny.vlm import FAMILIES, save_vlm
from schemas.records import Span
from trainer.errors import UsageError
from trainer.families import ANCHORS, Family, joined, load_family
from trainer.families.load import _answer_lead
from trainer.losses import DPO, ICVCO, SVCO

QUESTION = "What colour is the ring?"
NOT_OF_AN_IMAGE = {"input_ids", "attention_mask", "mm_token_type_ids", "batch_num_images"}


def random_images(number: int) -> list[PIL.Image.Image]:
    generator = np.random.default_rng(0)
    return [
        PIL.Image.fromarray(generator.integers(0, 256, (*SIZES[i][::-1], 3), dtype=np.uint8))
        for i in range(number)
    ]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_prompts_and_pixels_are_those_of_the_processors_own_call(checkpoint, name, number):
    family = checkpoint(name).family
    images = random_images(number)
    pixels = family.pixels(images)
    prompt = family.prompt(QUESTION, [p.ids for p in pixels])
    own = family.processor(
        text=[family.prompt_text(QUESTION, number)],
        images=[images] if images else None,
        return_tensors="pt",
    )
    assert prompt.ids.tolist() == own["input_ids"][0].tolist()
    ours = joined([p.tensors for p in pixels])
    assert set(ours) == set(own) - NOT_OF_AN_IMAGE
    for key, found in ours.items():
        wanted = own[key]
        if key == "pixel_values" and wanted.ndim == 5:
            # Rows of tiles, filled up with zeros to the most tiles.
            wanted = wanted.flatten(0, 1)[[bool(tile.any()) for tile in wanted.flatten(0, 1)]]
        assert torch.equal(found, wanted.reshape(found.shape))
    # The placeholders are where the images are, in order, and stand before the question.
    placeholder = family.processor.image_token_id
    assert (prompt.image[prompt.ids == placeholder] >= 0).all()
    runs = [n for n in prompt.image.tolist() if n >= 0]
    assert runs == [n for n, p in enumerate(pixels) for _ in range(p.num_tokens)]
    # Each image is one unbroken run, whatever stands between its tiles.
    assert np.count_nonzero(np.diff(prompt.image, prepend=-1)) <= 2 * number
    assert family.prompt_length(QUESTION, number) + len(runs) == len(prompt.ids)
    if number == 0:
        assert family.placeholder not in family.prompt_text(QUESTION, 0)
        assert placeholder not in prompt.ids
        assert not ours


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_ends_as_a_turn_of_the_family_ends(checkpoint, name):
    family = checkpoint(name).family
    ends = family.tokenizer.convert_ids_to_tokens(family.end_of_turn)
    own = {"llava-1.5": "</s>", "llava-next": "</s>", "idefics3": "<end_of_utterance>"}
    assert ends == own.get(name, "<|im_end|>")
    assert family.answer("The ring").ids[-1] == family.end_of_turn


@pytest.mark.parametrize("name", FAMILIES)
def test_prompt_and_answer_are_the_tokens_of_the_whole_conversation(checkpoint, name):
    family = checkpoint(name).family
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", QUESTION), ("assistant", "The ring"))
    ]
    whole = family.processor.apply_chat_template(turns)
    ids = family.tokenizer(whole, add_special_tokens=not whole.startswith("<|im_start|>"))
    ours = [*family.prompt(QUESTION, []).ids, *family.answer("The ring").ids[:-1]]
    assert ids["input_ids"][: len(ours)] == ours
    # The template says so, not the family: what writes no space gets none.
    assert family.answer_lead == (" " if name == "idefics3" else "")
    processor = copy.copy(family.processor)
    processor.chat_template = processor.chat_template.replace("else ': '", "else ':'")
    assert _answer_lead(replace(family, processor=processor)) == ""


@pytest.mark.parametrize("lead", ["", " "])
def test_spans_mark_the_same_words_behind_a_lead(checkpoint, lead):
    family = replace(checkpoint("idefics3").family, answer_lead=lead)
    answer = family.answer("The ring is red.", [Span(4, 8)])
    words = family.tokenizer.decode(answer.ids[answer.marked])
    assert words.strip() == "ring"


@pytest.mark.parametrize(
    ("name", "settings", "tiles"),
    [
        ("internvl", {}, {(40, 40): 1, (64, 32): 3, (20, 100): 5, (64, 64): 5}),
        ("idefics3", {}, {(40, 40): 5, (64, 32): 3, (20, 100): 3}),
        ("idefics3", {"size": {"longest_edge": 32}}, {(40, 40): 1, (64, 32): 1}),
        ("llava-next", {}, {(40, 40): 5, (64, 32): 3}),
    ],
)
def test_an_image_is_as_many_tiles_as_its_size_asks_for(tmp_path, name, settings, tiles):
    family = load_family(str(save_vlm(tmp_path, name)))
    for key, value in settings.items():
        setattr(family.processor.image_processor, key, SizeDict(**value))
    for size, wanted in tiles.items():
        (made,) = family.pixels([PIL.Image.new("RGB", size)])
        assert len(made.tensors["pixel_values"]) == wanted
        assert made.num_patches == wanted * 16
        own = family.processor(
            text=[family.prompt_text(QUESTION, 1)], images=[PIL.Image.new("RGB", size)]
        )
        assert family.prompt(QUESTION, [made.ids]).ids.tolist() == own["input_ids"][0]


def test_the_start_token_comes_once(checkpoint):
    family = checkpoint("llava-1.5").family
    bos = family.tokenizer.bos_token_id
    assert (family.prompt(QUESTION, []).ids == bos).tolist().index(True) == 0
    processor = copy.copy(family.processor)
    processor.chat_template = "<s>" + processor.chat_template
    again = replace(family, processor=processor)
    assert again.prompt_text(QUESTION, 0).startswith("<s>")
    assert again.prompt(QUESTION, []).ids.tolist() == family.prompt(QUESTION, []).ids.tolist()
    assert (checkpoint("qwen3-vl").family.tokenizer.bos_token_id) is None


def test_a_text_with_placeholders_is_refused(checkpoint):
    family = checkpoint("llava-1.5").family
    with pytest.raises(ValueError, match=r"1 images has 2 placeholders.*<image>"):
        family.prompt("Where is <image>?", [np.full(16, 3)])


def test_onevision_tiles_an_image_only_where_it_is_alone(checkpoint):
    family = checkpoint("llava-onevision").family
    images = random_images(2)
    alone, together = family.pixels(images[:1])[0], family.pixels(images)
    assert alone.alone
    assert len(alone.tensors["pixel_values"]) > 1
    assert [len(p.tensors["pixel_values"]) for p in together] == [1, 1]
    assert [p.alone for p in together] == [False, False]
    # Each image's own size: IC-VCO's release keeps the first image's for both.
    assert [p.tensors["image_sizes"][0].tolist() for p in together] == [
        [height, width] for width, height in SIZES[:2]
    ]


def test_losses_that_a_family_cannot_serve_are_refused(checkpoint):
    for name in FAMILIES:
        family = checkpoint(name).family
        family.check(SVCO().views, "loss svco")
        if family.several_images:
            family.check(ICVCO().views, "loss icvco")
            continue
        with pytest.raises(UsageError, match=r"icvco shows two images.*one image") as caught:
            family.check(ICVCO().views, "loss icvco")
        names = str(caught.value).partition("take ")[2]
        assert [f.name in names for f in Family.known()] == [
            f.several_images for f in Family.known()
        ]


def test_a_tokenizer_without_offsets_is_refused_where_they_are_needed(checkpoint):
    from transformers import ByT5Tokenizer

    family = checkpoint("qwen3-vl").family
    processor = copy.copy(family.processor)
    processor.tokenizer = ByT5Tokenizer()
    slow = replace(family, processor=processor)
    slow.check(DPO().views, "loss dpo")
    with pytest.raises(UsageError, match=r"icvco counts the tokens that differ.*ByT5Tokenizer"):
        slow.check(ICVCO().views, "loss icvco")


@pytest.fixture
def folder(tmp_path):
    return save_vlm(tmp_path / "model", "llava-interleave")


def refused(folder, *words):
    with pytest.raises(UsageError) as caught:
        load_family(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    for word in words:
        assert word in message


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, folder):
    refused(tmp_path / "nothing", "cannot be loaded")
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    (folder / "processor_config.json").unlink(missing_ok=True)
    refused(folder, "processor")


def test_an_unknown_family_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "llama"}')
    refused(folder, "unknown model type 'llama'", "did you mean llava?", "qwen3_vl")
    # The form with code of its own, which many InternVL checkpoints have.
    (folder / "config.json").write_text('{"model_type": "internvl_chat"}')
    refused(folder, "unknown model type 'internvl_chat'; did you mean internvl?")


def test_templates_that_do_something_else_are_refused(folder):
    template = folder / "chat_template.jinja"
    good = template.read_text()
    template.write_text(good.replace("<image>", ""))
    refused(folder, "does not write two images before the text")
    template.write_text(good.replace("{{ '<|im_end|>' + '\n' }}", "{{ '<image>' }}"))
    refused(folder, "placeholder where there is no image")
    template.unlink()
    refused(folder, "no chat template")


def test_digests_name_what_changed_and_not_where_it_is(tmp_path, folder):
    first = load_family(str(folder)).digests()
    elsewhere = shutil.copytree(folder, tmp_path / "copy")
    assert load_family(str(elsewhere)).digests() == first

    def changed() -> set[str]:
        second = load_family(str(elsewhere)).digests()
        return {key for key in first if first[key] != second[key]}

    template = elsewhere / "chat_template.jinja"
    good = template.read_text()
    template.write_text(good.replace("message['role'] + '\n'", "message['role'] + ' '"))
    assert changed() == {"template"}
    template.write_text(good)
    settings = elsewhere / "processor_config.json"
    content = json.loads(settings.read_text())
    content["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    settings.write_text(json.dumps(content))
    assert changed() == {"processor"}
    shutil.copy(folder / "processor_config.json", settings)
    tokenizer = elsewhere / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["merges"].pop()
    tokenizer.write_text(json.dumps(content))
    assert changed() == {"tokenizer"}


def test_every_family_has_a_tiny_checkpoint_and_a_line_in_the_readme(checkpoint):
    assert {type(checkpoint(name).family) for name in FAMILIES} == set(Family.known())
    text = (Path(trainer.__file__).parent / "README.md").read_text("utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    for family in Family.known():
        types, images, *_ = table[family.name]
        assert all(f"`{name}`" in types for name in family.model_types)
        assert images == ("0, 1, 2" if family.several_images else "0, 1")


def test_the_sentences_name_the_places():
    assert ["first" in s for s in ANCHORS] == [True, False]
    assert ["second" in s for s in ANCHORS] == [False, True]
