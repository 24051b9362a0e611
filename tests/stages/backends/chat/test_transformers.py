"""The in-process chat backend on a tiny LLaVA with random weights."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections import Counter
from pathlib import Path

import PIL.Image
import pytest
import torch

from fakes.tiny.llava import save_adapter, save_llava
from fakes.tiny.sam import save_sam
from fakes.tiny.vlm import FAMILIES, save_vlm
from schemas.records import Image, Reason
from stages.backends.chat.transformers import TransformersChatSettings
from stages.backends.chat.transformers_model import RowSampling
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import Device
from stages.language.chat import ChatBackend, Form, Message, Reply, Request, Sampling, Unanswered

WARM = Sampling(temperature=1.2, top_p=0.8, max_tokens=24)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def chat(folder):
    backend = pickle.loads(pickle.dumps(TransformersChatSettings(model=str(folder)))).load(Device())
    yield backend
    backend.close()
    backend.close()


def random_image(seed: int = 0, width: int = 40, height: int = 30) -> Image:
    pixels = torch.randint(
        0, 255, (height, width, 3), generator=torch.Generator().manual_seed(seed)
    )
    sink = io.BytesIO()
    PIL.Image.fromarray(pixels.to(torch.uint8).numpy()).save(sink, "PNG")
    return Image(sink.getvalue())


def ask(text: str = "What is it?", seed: int = 0, sampling: Sampling = WARM, image=None) -> Request:
    turn = Message("user", (image or random_image(), text))
    return Request((turn,), str, sampling, seed)


def said(results) -> list[str]:
    return [r.value if isinstance(r, Reply) else r.raw for r in results]


def test_it_is_a_chat_backend_and_names_its_checkpoints(folder):
    backend = TransformersChatSettings(model=str(folder), adapter="me/lora", adapter_revision="v2")
    assert isinstance(backend, ChatBackend)
    assert [str(c) for c in backend.checkpoints()] == [str(folder), "me/lora@v2"]


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(chat):
    requests = [ask("Why?" * (i % 3 + 1), seed=i, image=random_image(i % 2)) for i in range(7)]
    together = chat.chat(requests)
    assert together == [chat.chat([request])[0] for request in requests]
    assert together == chat.chat(requests)[:7]
    other = chat.chat([ask("Why?", seed=100 + i) for i in range(4)])
    assert len(set(said(other))) > 1, "other seeds, other samples"


def test_the_image_is_seen(chat):
    greedy = Sampling(max_tokens=24)
    answers = said(chat.chat([ask(sampling=greedy, image=random_image(i)) for i in range(4)]))
    assert len(set(answers)) > 1


def test_greedy_is_the_models_own_greedy(chat, folder):
    """Held against generate() without our sampling, on a prompt made by hand."""
    request = ask(sampling=Sampling(max_tokens=16))
    inputs = chat._processor(
        text="USER: <image>\nWhat is it? ASSISTANT:",
        images=PIL.Image.open(io.BytesIO(random_image().bytes)),
        return_tensors="pt",
    )
    ids = chat._model.generate(
        **inputs, do_sample=False, temperature=None, repetition_penalty=1.0, max_new_tokens=16
    )
    expected = ids[0, inputs["input_ids"].shape[1] :]
    ends = chat._model.generation_config.eos_token_id
    kept = [int(t) for t in expected if int(t) not in ends]
    text = chat._processor.tokenizer.decode(kept, skip_special_tokens=True)
    assert said(chat.chat([request])) == [text.strip()]


def test_draws_follow_the_distribution_cut_at_top_p():
    """Five tokens of shares 1/2, 1/4, 1/8, 1/16, 1/16; top_p 0.8 leaves the first three."""
    shares = torch.tensor([1 / 16, 1 / 2, 1 / 8, 1 / 4, 1 / 16])
    num = 4000
    requests = [ask(seed=i, sampling=Sampling(1.0, 0.8, 1)) for i in range(num)]
    scores = shares.log().repeat(num, 1)
    drawn = RowSampling(requests, 3)(torch.zeros(num, 3, dtype=torch.long), scores).argmax(-1)
    counts = Counter(drawn.tolist())
    assert set(counts) == {1, 3, 2}
    for token, share in ((1, 4 / 7), (3, 2 / 7), (2, 1 / 7)):
        spread = math.sqrt(share * (1 - share) / num)
        assert abs(counts[token] / num - share) < 4 * spread


def test_temperature_flattens_and_zero_leaves_the_scores():
    shares = torch.tensor([0.9, 0.1]).log().repeat(2000, 1)
    warm = [ask(seed=i, sampling=Sampling(2.0, 1.0, 1)) for i in range(2000)]
    ids = torch.zeros(2000, 1, dtype=torch.long)
    drawn = RowSampling(warm, 1)(ids, shares.clone()).argmax(-1)
    # sqrt(0.1) / (sqrt(0.1) + sqrt(0.9)) = 1/4
    assert abs(drawn.float().mean().item() - 0.25) < 0.04
    cold = [ask(seed=i, sampling=Sampling(0.0, 1.0, 1)) for i in range(2000)]
    assert torch.equal(RowSampling(cold, 1)(ids, shares.clone()), shares)


def test_an_adapter_changes_what_is_said(folder, tmp_path):
    adapter = save_adapter(tmp_path / "lora", folder)
    requests = [ask(seed=i, image=random_image(i)) for i in range(6)]
    plain = TransformersChatSettings(model=str(folder)).load(Device())
    before = said(plain.chat(requests))
    plain.close()
    adapted = TransformersChatSettings(model=str(folder), adapter=str(adapter)).load(Device())
    after = said(adapted.chat(requests))
    adapted.close()
    assert before != after


def test_an_adapter_of_another_model_is_refused(folder, tmp_path):
    adapter = save_adapter(tmp_path / "lora", folder)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["r"] = 8
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    backend = TransformersChatSettings(model=str(folder), adapter=str(adapter))
    with pytest.raises(CheckpointError, match="is no adapter of"):
        backend.load(Device())
    config["r"], config["target_modules"] = 4, ["no_such_layer"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is no adapter of"):
        backend.load(Device())
    with pytest.raises(CheckpointError, match="is it an adapter"):
        TransformersChatSettings(model=str(folder), adapter=str(folder)).load(Device())


def test_a_checkpoint_that_is_no_chat_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="of type 'sam'"):
        TransformersChatSettings(model=str(save_sam(tmp_path))).load(Device())


def test_a_prompt_with_the_placeholder_of_images_is_not_asked(chat):
    bad, good = chat.chat([ask("What does <image> mean?"), ask()])
    assert bad.reason is Reason.REQUEST_FAILED
    assert "'<image>'" in bad.why
    assert isinstance(good, Reply | Unanswered)


def test_a_reply_without_an_end_is_cut_off(chat):
    results = chat.chat([ask(seed=i, sampling=Sampling(1.2, 0.8, 2)) for i in range(8)])
    cut = [r for r in results if isinstance(r, Unanswered)]
    assert cut
    assert cut[0].why == "the reply was cut off at 2 tokens"


class Yes(Form):
    yes: bool


def test_forms_are_asked_for_in_words_and_bad_replies_end_after_one_repair(chat):
    before = chat.usage()["requests"]
    request = Request((Message("user", (random_image(), "Is it?")),), Yes, WARM, 3)
    (result,) = chat.chat([request])
    assert isinstance(result, Unanswered), "random weights write no JSON"
    assert result.reason is Reason.BAD_REPLY
    assert chat.usage()["requests"] - before <= 2


def test_several_images_in_one_request(chat):
    turn = Message("user", ("First: ", random_image(1), "second: ", random_image(2, 20, 50)))
    one, two = (
        Request((turn,), str, WARM, 5),
        Request((Message("user", (random_image(3), "x")),), str, WARM, 6),
    )
    assert chat.chat([one, two]) == [chat.chat([one])[0], chat.chat([two])[0]]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_that_can_be_trained_can_be_sampled(family, tmp_path):
    """Images of several sizes, one or two in a request, in a batch and alone."""
    backend = TransformersChatSettings(
        model=str(save_vlm(tmp_path / "model", family)), micro_batch=4
    ).load(Device())
    sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=6)
    two = Message("user", (random_image(5), random_image(6, 30, 60), "Which is larger?"))
    requests = [
        ask("What is it?", 1, sampling, random_image(1, 64, 32)),
        ask("Describe the image, please.", 2, sampling, random_image(2, 33, 57)),
        Request((Message("system", ("Be brief.",)), two), str, sampling, 3),
    ]
    together = backend.chat(requests)
    alone = [backend.chat([request])[0] for request in requests]
    assert together == alone
    assert backend.usage()["requests"] == 6
    backend.close()
