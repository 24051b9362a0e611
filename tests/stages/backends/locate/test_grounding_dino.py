import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import GroundingDinoProcessor

from fakes.tiny.grounding_dino import MAX_TEXT_LEN, save_grounding_dino
from fakes.tiny.sam import save_sam
from schemas.geometry import Box
from stages.backends.locate.grounding_dino import GroundingDinoSettings
from stages.backends.locate.grounding_dino_model import _above, _Prompt, _text_positions
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, HasCheckpoints
from stages.base import BackendSettings, Device
from tests.stages.backends.locate.triples import triples

PIXELS, SCORE = 2e-3, 2e-5
"""What a batch may differ from single rows, in float32: pixels of a box, and scores."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_grounding_dino(tmp_path_factory.mktemp("grounding_dino"))


@pytest.fixture
def made(folder):
    """Lets everything through, so that tests see all queries, each with one tag."""
    backend = GroundingDinoSettings(
        model=str(folder), box_threshold=0, text_threshold=0, synonym_share=1
    ).load(Device())
    yield backend
    backend.close()


def random_image(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(6, 0).repeat(6, 1)[:height, :width])


IMAGES = [
    random_image(48, 80, 1),
    random_image(100, 60, 2),
    random_image(48, 80, 3),
    random_image(50, 50, 4),
]
TAGS = [["dog", "red panda"], ["frisbee"], ["man", "cat", "a big bus", "the person"], []]


def check_same(one, other):
    """As sets of detections: float noise may exchange two queries."""
    assert len(one) == len(other)
    key = lambda d: (d[0], [round(v, 1) for v in d[1]], d[2])  # noqa: E731
    for (tag, box, score), (tag2, box2, score2) in zip(
        sorted(triples(one), key=key), sorted(triples(other), key=key), strict=True
    ):
        assert tag == tag2
        assert box == pytest.approx(box2, abs=PIXELS)
        assert score == pytest.approx(score2, abs=SCORE)


def test_neither_the_batch_nor_its_cuts_change_a_box(made):
    together = made.detect(IMAGES, TAGS)
    made.settings = replace(made.settings, max_batch=1)
    cut = made.detect(IMAGES, TAGS)
    assert [len(found) for found in together] == [20, 20, 20, 0]
    assert {tag for tag, _, _ in triples(together[2])} <= set(TAGS[2])
    for k, image in enumerate(IMAGES):
        (alone,) = made.detect([image], [TAGS[k]])
        check_same(together[k], alone)
        check_same(cut[k], alone)


def test_images_of_one_size_share_a_pass(made):
    seen = []
    made._model.register_forward_pre_hook(
        lambda _m, _a, k: seen.append((*k["pixel_values"].shape, *k["input_ids"].shape)),
        with_kwargs=True,
    )
    made.detect(IMAGES, TAGS)
    # [CLS] man . cat . a b ##i ##g bus . the person . [SEP]; "dog. red panda." is padded to it.
    assert seen == [(2, 3, 96, 160, 2, 15), (1, 3, 160, 96, 1, 4)]


def test_boxes_are_those_of_the_library(made):
    """The same image and prompt by the library's processor, through the same mended model."""
    processor = GroundingDinoProcessor(made._processor, made._tokenizer)
    in_tags = 0
    for image, tags in zip(IMAGES[:3], TAGS[:3], strict=True):
        height, width = image.shape[:2]
        inputs = processor(images=image, text=[tags], return_tensors="pt")
        (prompt,) = made._prompts(0, tags)
        assert inputs["input_ids"][0].tolist() == prompt.tokens
        ours = made._pixels([image], made._resized_size(image))
        torch.testing.assert_close(ours, inputs["pixel_values"], atol=1e-5, rtol=0)
        with torch.inference_mode():
            out = made._model(**inputs)
        (theirs,) = processor.post_process_grounded_object_detection(
            out, threshold=0, text_threshold=0, target_sizes=[(height, width)]
        )
        (found,) = made.detect([image], [tags])
        likeliest = out.logits[0].argmax(-1).tolist()
        for query, (tag, box, score) in enumerate(triples(found)):
            expected = Box(*theirs["boxes"][query].tolist()).clipped(width, height)
            assert box == pytest.approx(expected, abs=PIXELS)
            # The library scores by full stops, too; ours is the likeliest token of a tag.
            assert score <= theirs["scores"][query] + SCORE
            for name, (start, end) in zip(prompt.tags, prompt.spans, strict=True):
                if start <= likeliest[query] < end:
                    in_tags += 1
                    assert tag == name
                    assert score == pytest.approx(float(theirs["scores"][query]), abs=SCORE)
    assert in_tags > 5


def positions_by_hand(tokens):
    """As the authors define them: counted from 0 within a tag, its full stop with it."""
    out = []
    for row in tokens:
        numbers, count = [], 0
        for token in row:
            inside = token not in (0, 101, 102)
            numbers.append(count if inside else 0)
            count = count + 1 if inside and token not in (1012, 1029) else 0
        out.append(numbers)
    return out


def test_text_positions_are_those_of_training(made):
    rows = [[101, 5, 6, 1012, 7, 8, 9, 1012, 102], [101, 5, 1012, 102, 0, 0, 0, 0, 0]]
    assert positions_by_hand(rows)[0] == [0, 0, 1, 2, 0, 1, 2, 3, 0]
    assert _text_positions(torch.tensor(rows)).tolist() == positions_by_hand(rows)
    seen = {}
    model = made._model.model
    model.text_backbone.register_forward_pre_hook(
        lambda _m, args: seen.update(tokens=args[0], backbone=args[3])
    )
    model.encoder.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.update(encoder=kwargs["text_position_ids"]), with_kwargs=True
    )
    made.detect(IMAGES[:3:2], TAGS[:3:2])
    expected = positions_by_hand(seen["tokens"].tolist())
    assert max(map(max, expected)) == 5
    assert seen["backbone"].tolist() == expected
    # Whole numbers would make sines and cosines of them whole.
    assert seen["encoder"].dtype == torch.float32
    assert seen["encoder"].tolist() == expected


PROMPT = _Prompt(0, ["red panda", "dog"], [(1, 3), (4, 5)], [101, 202, 203, 1012, 200, 1012, 102])


@pytest.mark.parametrize(
    ("chances", "expected"),
    [
        ([0, 0.3, 0.5, 0, 0.1, 0, 0], [("red panda", 0.5)]),
        ([0, 0.1, 0.2, 0, 0.4, 0, 0], [("dog", 0.4)]),
        # Likely for "red" alone; the dog, less likely, is whole.
        ([0, 0.38, 0.01, 0, 0.3, 0, 0], [("dog", 0.3)]),
        ([0, 0.38, 0.01, 0, 0.1, 0, 0], []),
        # A full stop or [SEP] is no tag.
        ([0, 0.1, 0.1, 0.9, 0.1, 0.9, 0.9], []),
        ([0.9, 0.24, 0.24, 0, 0.24, 0, 0], []),
        # Both pass: the likelier of the two, once.
        ([0, 0.3, 0.7, 0, 0.5, 0, 0], [("red panda", 0.7)]),
        # So near each other that either name may be meant.
        ([0, 0.3, 0.5, 0, 0.6, 0, 0], [("red panda", 0.5), ("dog", 0.6)]),
    ],
)
def test_a_box_belongs_to_the_tag_whose_tokens_are_likely(chances, expected):
    boxes = np.array([[0.5, 0.5, 0.5, 1.5]], np.float32)
    found = _above(
        GroundingDinoSettings(), PROMPT, np.array([chances], np.float32), boxes, 200, 100
    )
    assert [(tag, pytest.approx(score)) for tag, _, score in triples(found)] == expected
    assert all(one.box == (50, 0, 150, 100) for one in found)


def test_what_cannot_name_a_box_is_kept_as_faint():
    boxes = np.full((3, 4), 0.5, np.float32)
    chances = [
        [0, 0.6, 0.6, 0, 0.4, 0, 0],  # good enough, but far below the best
        [0, 0.6, 0.6, 0, 0.09, 0, 0],
        [0, 0.2, 0.2, 0, 0.2, 0, 0],  # nothing names it: no detection
    ]
    found = _above(GroundingDinoSettings(), PROMPT, np.array(chances, np.float32), boxes, 200, 100)
    assert [(dict(one.names), dict(one.faint)) for one in found] == [
        ({"red panda": pytest.approx(0.6)}, {"dog": pytest.approx(0.4)}),
        ({"red panda": pytest.approx(0.6)}, {}),
    ]


def test_tags_that_do_not_fit_one_prompt_are_split(made):
    tags = ["dog", "a red panda", "xylophone", "cat", "frisbee", "zebra", "bus", "a man"]
    prompts = list(made._prompts(0, tags))
    assert [tag for prompt in prompts for tag in prompt.tags] == tags
    assert len(prompts) == 2
    for prompt in prompts:
        assert len(prompt.tokens) <= MAX_TEXT_LEN
        assert prompt.tokens[0] == 101
        assert prompt.tokens[-2:] == [1012, 102]
        for tag, (start, end) in zip(prompt.tags, prompt.spans, strict=True):
            assert made._tokenizer.decode(prompt.tokens[start:end]) == tag
            assert prompt.tokens[end] == 1012
    (whole,) = made.detect(IMAGES[:1], [tags])
    parts = [made.detect(IMAGES[:1], [prompt.tags])[0] for prompt in prompts]
    check_same(whole, [detection for part in parts for detection in part])


def test_odd_tags(made):
    (prompt,) = made._prompts(0, ["T.V.", "...", "?", "DOG", ""])
    assert prompt.tags == ["T.V.", "DOG"]
    assert made._tokenizer.decode(prompt.tokens) == "[CLS] t v. dog. [SEP]"
    assert made.detect(IMAGES[:1], [["..."]]) == [[]]
    assert made.detect([], []) == []
    letters = "abcdefghijklmnopqrstuvwxyzabc"
    made.detect(IMAGES[:1], [[letters]])
    with pytest.raises(ValueError, match="has 30 tokens; 29 fit into a prompt"):
        made.detect(IMAGES[:1], [["dog", letters + "d"]])


def test_the_sides_of_resized_images_can_be_rounded(made):
    assert made._resized_size(random_image(333, 500)) == (96, 144)
    assert made._resized_size(random_image(40, 55)) == (96, 132)
    made.settings = replace(made.settings, side_step=32)
    assert made._resized_size(random_image(40, 55)) == (96, 128)
    image, prompts = random_image(40, 55), list(made._prompts(0, ["dog"]))
    _, ((x, y, w, h), *_) = (out[0] for out in made._run([image], (96, 128), prompts))
    expected = Box((x - w / 2) * 55, (y - h / 2) * 40, (x + w / 2) * 55, (y + h / 2) * 40)
    ((first, *_),) = made.detect([image], [["dog"]])
    assert first.box == pytest.approx(expected.clipped(55, 40), abs=PIXELS)


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.05), ("float16", 0.002)])
def test_half_precision_leaves_boxes_in_full(made, dtype, near):
    image, tags = IMAGES[0], TAGS[0]
    size, prompts = made._resized_size(image), list(made._prompts(0, tags))
    chances, boxes = made._run([image], size, prompts)
    made = made.settings.load(Device(dtype=dtype))
    assert made._model.dtype == torch.float32
    half, rough = made._run([image], size, prompts)
    assert np.isfinite(half).all()
    assert (half != chances).any()
    # Finer than the type could hold.
    rounded = torch.from_numpy(rough).to(getattr(torch, dtype)).float().numpy()
    assert (rough != rounded).mean() > 0.9
    # To the nearest box, as rounding exchanges queries; 0.02 and 0.0005 when this was written.
    gaps = np.abs(boxes[0][:, None] - rough[0][None]).max(-1).min(1)
    assert np.median(gaps) < near


def test_opening_and_closing(folder):
    backend = GroundingDinoSettings(model=str(folder))
    assert pickle.loads(pickle.dumps(backend)) == backend
    model = backend.load(Device())
    model.close()
    model.close()
    with pytest.raises(ValueError, match="asks for cuda"):
        backend.load(Device("cuda"))


def test_checkpoints_that_will_not_do(tmp_path, folder):
    with pytest.raises(CheckpointError, match="no model at"):
        GroundingDinoSettings(model=str(tmp_path / "none")).load(Device())
    (tmp_path / "sam").mkdir()
    sam = save_sam(tmp_path / "sam")
    with pytest.raises(CheckpointError, match="type 'sam'; grounding-dino is needed"):
        GroundingDinoSettings(model=str(sam)).load(Device())
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer|BertTokenizer") as caught:
        GroundingDinoSettings(model=str(bare)).load(Device())
    assert "\n" not in str(caught.value)


def test_settings():
    adapter = TypeAdapter(GroundingDinoSettings)
    one = adapter.validate_python({"model": "a/b", "revision": "main", "box_threshold": 0.3})
    assert isinstance(one, BackendSettings)
    assert isinstance(one, HasCheckpoints)
    assert one.checkpoints() == (Checkpoint("a/b", "main"),)
    for wrong in ({"modle": "a"}, {"box_threshold": 2}, {"side_step": 0}, {"name": "dino"}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
