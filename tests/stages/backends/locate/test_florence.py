import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from fakes.tiny.florence import WRITTEN, plain, save_florence, tokenizer
from stages.backends.locate.florence import FlorenceSettings
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, HasCheckpoints
from stages.base import BackendSettings, Device
from tests.stages.backends.locate.triples import triples

RED, BLUE, GREY = (plain(color, 50, 80) for color in WRITTEN)
WIDE = plain(next(iter(WRITTEN)), 40, 200)
SCORE = 1e-4
"""What a score in a batch may differ from that of an image alone, in float32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_florence(tmp_path_factory.mktemp("florence"))


@pytest.fixture(params=[1, 3])
def made(request, folder):
    """Greedy, and with beams."""
    backend = FlorenceSettings(model=str(folder), num_beams=request.param, max_new_tokens=64).load(
        Device()
    )
    yield backend
    backend.close()


def test_names_and_boxes_of_what_was_learned(made):
    tags = made.tag([RED, BLUE, GREY])
    assert [[name for name, _ in own] for own in tags] == [["dog", "red panda"], ["cat"], []]
    assert all(0.8 < score <= 1 for own in tags for _, score in own)
    asked = [["Red  Panda", "fish"], ["cat", "dog"], ["dog"], ["dog"]]
    found = [triples(own) for own in made.detect([RED, BLUE, GREY, WIDE], asked)]
    assert [[tag for tag, _, _ in own] for own in found] == [
        ["Red  Panda"],
        ["cat", "cat"],
        [],
        ["dog"],
    ]
    # Middles of thousandths of the image's sides.
    ((_, panda, _),), ((_, cat, first), (_, other, second)), _, ((_, dog, _),) = found
    assert panda == pytest.approx((0.04, 0.025, 24.04, 49.975))
    assert cat == pytest.approx((20.04, 12.525, 60.04, 37.525))
    assert other == pytest.approx((64.04, 40.025, 72.04, 45.025))
    assert dog == pytest.approx((20.1, 8.02, 100.1, 24.02))
    assert dict(tags[1])["cat"] == pytest.approx(max(first, second))


def test_neither_the_batch_nor_its_cuts_change_a_tag(made):
    images = [RED, GREY, BLUE, WIDE]
    together = made.tag(images)
    made.settings = replace(made.settings, max_batch=3)
    cut = made.tag(images)
    for k, image in enumerate(images):
        (alone,) = made.tag([image])
        assert dict(together[k]) == pytest.approx(dict(alone), abs=SCORE)
        assert dict(cut[k]) == pytest.approx(dict(alone), abs=SCORE)
    assert made.tag([]) == []
    assert made.detect([], []) == []


def test_the_library_writes_and_reads_the_same(made, folder):
    loaded = Florence2Processor.from_pretrained(folder)
    rules = {"description_with_bboxes": {}}
    processor = Florence2Processor(
        loaded.image_processor, loaded.tokenizer, post_processor_config=rules
    )
    model = Florence2ForConditionalGeneration.from_pretrained(folder)
    for image in (RED, BLUE, GREY, WIDE):
        inputs = processor(images=image, text="<OD>", return_tensors="pt")
        tokens = model.generate(
            **inputs, num_beams=made.settings.num_beams, max_new_tokens=64, do_sample=False
        )
        ours, chances = made._written([image])
        assert ours[0].tolist() == tokens[0, 1:].tolist()
        height, width = image.shape[:2]
        answer = processor.post_process_generation(
            processor.batch_decode(tokens)[0], task="<OD>", image_size=(width, height)
        )["<OD>"]
        (found,) = made._objects([image])
        assert [name for name, _, _ in found] == answer["labels"]
        # The library cuts to whole pixels.
        assert [[int(v) for v in box] for _, box, _ in found] == answer["bboxes"]
        # A token's chance given those before it, by a loop of single steps.
        with torch.inference_mode():
            for step in (1, len(tokens[0]) - 2):
                logits = model(**inputs, decoder_input_ids=tokens[:, : step + 1]).logits[0, -1]
                expected = logits.log_softmax(-1)[tokens[0, step + 1]]
                assert chances[0, step] == pytest.approx(float(expected), abs=SCORE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog<loc_0><loc_0><loc_499><loc_999>", [("dog", (0.05, 0.1, 49.95, 199.9))]),
        ("dog<loc_1><loc_2><loc_3>cat<loc_0><loc_0><loc_9><loc_9>", [("cat", None)]),
        ("dog<loc_1><loc_2><loc_3><loc_4><loc_5>", [("dog", None)]),
        ("<loc_1><loc_2><loc_3><loc_4>", []),
        ("dog", []),
        ("<s>dog</s>cat<loc_1><loc_2><loc_3><loc_4>", []),
        ("</s><s>cat<loc_1><loc_2><loc_3><loc_4></s><pad>", [("cat", None)]),
        ("  red\n panda <loc_1><loc_2><loc_3><loc_4>", [("red panda", None)]),
        ("", []),
    ],
)
def test_odd_texts(made, text, expected):
    tokens = tokenizer()(text, add_special_tokens=False)["input_ids"]
    found = made._read(tokens, [-0.5] * len(tokens), 100, 200)
    assert [(name, score) for name, _, score in found] == [
        (name, pytest.approx(np.exp(-0.5))) for name, _ in expected
    ]
    for (_, box, _), (_, corners) in zip(found, expected, strict=True):
        assert corners is None or box == pytest.approx(corners)


def test_half_precision(made):
    exact = [triples(own) for own in made.detect([RED, BLUE], [["dog", "red panda"], ["cat"]])]
    made = made.settings.load(Device(dtype="bfloat16"))
    assert made._model.dtype == torch.bfloat16
    rough = [triples(own) for own in made.detect([RED, BLUE], [["dog", "red panda"], ["cat"]])]
    for own, other in zip(exact, rough, strict=True):
        assert [(name, box) for name, box, _ in own] == [(name, box) for name, box, _ in other]
        assert [s for _, _, s in own] == pytest.approx([s for _, _, s in other], abs=0.05)


def test_opening_and_closing(folder):
    backend = FlorenceSettings(model=str(folder), max_new_tokens=64)
    assert pickle.loads(pickle.dumps(backend)) == backend
    model = backend.load(Device())
    model.close()
    model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))
    with pytest.raises(CheckpointError, match="can write 127 tokens; max_new_tokens is 512"):
        FlorenceSettings(model=str(folder)).load(Device())


def test_a_tokenizer_without_places(tmp_path, folder):
    import shutil

    other = shutil.copytree(folder, tmp_path / "other")
    made = tokenizer()
    plain_words = type(made)(tokenizer_object=_without_places(made), bos_token="<s>")
    plain_words.save_pretrained(other)
    with pytest.raises(CheckpointError, match="lacks 1000 of the 1000 tokens of places"):
        FlorenceSettings(model=str(other), max_new_tokens=64).load(Device())


def _without_places(made):
    import json

    from tokenizers import Tokenizer

    content = json.loads(made.backend_tokenizer.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if "<loc" not in t["content"]]
    return Tokenizer.from_str(json.dumps(content))


def test_settings():
    adapter = TypeAdapter(FlorenceSettings)
    one = adapter.validate_python({"model": "a/b", "revision": "main", "num_beams": 1})
    assert isinstance(one, BackendSettings)
    assert isinstance(one, BackendSettings)
    assert isinstance(one, HasCheckpoints)
    assert one.checkpoints() == (Checkpoint("a/b", "main"),)
    for wrong in ({"task": "<OCR>"}, {"num_beams": 0}, {"max_new_tokens": 5}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
