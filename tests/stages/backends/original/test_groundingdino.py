from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages.backends.original.groundingdino import GroundingDinoPySettings
from stages.backends.weights.checkpoints import CheckpointError
from stages.base import BackendSettings, Device
from tests.stages.backends.locate.triples import triples

TAGS = ["dog", "red panda", "Table"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    pytest.importorskip("groundingdino")
    from fakes.tiny.groundingdino import save_original_dino

    return save_original_dino(tmp_path_factory.mktemp("groundingdino"))


@pytest.fixture(scope="module")
def backend(files):
    made = GroundingDinoPySettings(**files, box_threshold=0.0, text_threshold=0.0).load(Device())
    yield made
    made.close()
    made.close()


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_boxes_and_scores_are_those_of_the_package(backend):
    from groundingdino.util.inference import predict

    image = random_image(60, 90)
    found = triples(*backend.detect([image], [TAGS]))
    values, _ = backend._transform(PIL.Image.fromarray(image), None)
    boxes, scores, _ = predict(
        backend._model, values, "dog. red panda. table.", 0.0, 0.0, device="cpu"
    )
    # With no threshold every tag has every box, tag after tag.
    assert [tag for tag, _, _ in found] == [tag for tag in TAGS for _ in boxes]
    for (_, box, _), (x, y, w, h) in zip(found, [*boxes.tolist()] * len(TAGS), strict=True):
        assert box.x0 == pytest.approx(max(0, (x - w / 2) * 90), abs=1e-3)
        assert box.y1 == pytest.approx(min(60, (y + h / 2) * 60), abs=1e-3)
    # The package's score is the best over all tokens; ours is that of the tag's own.
    assert max(score for _, _, score in found) <= scores.max() + 1e-6


def test_tokens_belong_to_their_tags(backend):
    ((prompt, spans),) = backend._prompts(TAGS)
    assert prompt == "dog. red panda. table."
    tokens = backend._model.tokenizer.convert_ids_to_tokens(
        backend._model.tokenizer(prompt)["input_ids"]
    )
    assert [(tag, tokens[a:b]) for tag, (a, b) in spans] == [
        ("dog", ["dog"]),
        ("red panda", ["red", "panda"]),
        ("Table", ["table"]),
    ]


def test_more_tags_than_fit_go_into_several_prompts(backend):
    many = [f"{'red ' * (k % 3)}panda" for k in range(120)]
    prompts = list(backend._prompts(many))
    assert len(prompts) > 1
    assert [tag for _, spans in prompts for tag, _ in spans] == many
    for prompt, spans in prompts:
        ids = backend._model.tokenizer(prompt)["input_ids"]
        assert len(ids) <= backend._model.max_text_len
        assert spans[-1][1][1] <= len(ids) - 2
    with pytest.raises(ValueError, match="too many for one tag"):
        list(backend._prompts(["red " * 300]))
    assert list(backend._prompts(["..."])) == []


def test_thresholds(backend):
    image = random_image(60, 90)
    everything = triples(*backend.detect([image], [TAGS]))
    limit = float(np.median([score for _, _, score in everything]))
    backend.settings = replace(backend.settings, box_threshold=limit)
    fewer = triples(*backend.detect([image], [TAGS]))
    backend.settings = replace(backend.settings, box_threshold=0.0)
    assert fewer == [item for item in everything if item[2] >= limit]
    assert 0 < len(fewer) < len(everything)
    assert backend.detect([image], [[]]) == [[]]


def test_missing_weights_are_an_error_and_not_left_at_random(files, tmp_path):
    weights = torch.load(files["model"])["model"]
    weights.pop("module.transformer.level_embed")
    torch.save({"model": weights}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"lacks 1 weights .*level_embed"):
        GroundingDinoPySettings(**{**files, "model": str(tmp_path / "less.pth")}).load(Device())
    torch.save(weights, tmp_path / "bare.pth")
    for content in (None, b"", b"<!DOCTYPE html>\n<p>Sign in</p>\n"):
        if content is not None:
            (tmp_path / "bare.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"holds no model of .*: .") as caught:
            GroundingDinoPySettings(**{**files, "model": str(tmp_path / "bare.pth")}).load(Device())
        assert "\n" not in str(caught.value)


def test_settings():
    adapter = TypeAdapter(GroundingDinoPySettings)
    one = adapter.validate_python({"model": "/a.pth", "text_encoder": "a/b"})
    assert isinstance(one, BackendSettings)
    assert [str(checkpoint) for checkpoint in one.checkpoints()] == ["/a.pth", "a/b"]
    for wrong in ({"box_threshold": 2}, {"modle": "x"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


def test_without_the_package_the_successor_is_named():
    try:
        import groundingdino  # noqa: F401
    except ImportError:
        with pytest.raises(CheckpointError, match="take the backend grounding_dino"):
            GroundingDinoPySettings().load(Device())
