from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import cv2
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from fakes.opened import opened
from pipeline.demo.scenes import scene
from schemas.geometry import Mask
from schemas.records import Candidate, Contrast, Image, Kind, Region, Seed
from stages.backends.embed.descriptors import ColorLayout, GradientGrid
from stages.base import Device
from stages.decide.embedder import Embedder, EmbedderModel
from stages.pixels import decode, encode_jpeg

NUM_SCENES = 24


def cosine(backend, first, second):
    rows = backend.embed([first, second])
    return float(np.sum(rows[0] * rows[1]))


@cache
def pixels(index, side=256):
    return scene(1, index, side).pixels


def erased(index, thing=0):
    image = scene(1, index, 256)
    mask = cv2.dilate(image.objects[thing].mask.astype(np.uint8), np.ones((7, 7), np.uint8))
    return cv2.inpaint(image.pixels, mask, 5, cv2.INPAINT_TELEA)


def recolored(index):
    image = scene(1, index, 256)
    swapped = image.pixels[:, :, [1, 2, 0]]
    return np.where(image.objects[0].mask[:, :, None], swapped, image.pixels)


def round_trip(image):
    return decode(encode_jpeg(np.ascontiguousarray(image)))


def candidate(seed_id, chosen, rejected):
    seed = Seed(seed_id, 0, chosen, 256, 256, "?", "A.", None, (), "test", None)
    contrast = Contrast(Kind.OBJECT, "ring", None, "remove the ring")
    region = Region("ring", (0, 0, 1, 1), Mask.from_array(np.ones((256, 256), bool)))
    return Candidate(seed, contrast, (region,), chosen, rejected, None, {})


BACKENDS = [ColorLayout(), GradientGrid()]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (64, 48), (300, 400)])
def test_rows_are_unit_vectors_of_one_length_for_any_image(backend, shape):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*shape, 3), np.uint8)
    black, white = np.zeros_like(noise), np.full_like(noise, 255)
    rows = backend.embed([noise, black, white, pixels(0)])
    assert rows.dtype == np.float32
    assert rows.shape[0] == 4
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_rows_do_not_depend_on_the_batch(backend):
    alone = [backend.embed([pixels(i)])[0] for i in range(3)]
    np.testing.assert_array_equal(backend.embed([pixels(i) for i in range(3)]), alone)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_the_codec_hardly_moves_a_image(backend):
    values = [cosine(backend, pixels(i), round_trip(pixels(i))) for i in range(NUM_SCENES)]
    assert min(values) > 0.99


def test_detail_falls_with_every_visible_edit_and_stays_without_one():
    detail = GradientGrid()
    unchanged = [cosine(detail, pixels(i), round_trip(pixels(i))) for i in range(NUM_SCENES)]
    for edit in (erased, recolored):
        values = [cosine(detail, pixels(i), round_trip(edit(i))) for i in range(NUM_SCENES)]
        assert max(values) < min(unchanged) - 0.01
        assert np.median(values) < 0.9


def test_appearance_tells_an_edited_scene_from_another_scene():
    appearance = ColorLayout()
    edited = [cosine(appearance, pixels(i), erased(i)) for i in range(NUM_SCENES)]
    other = [cosine(appearance, pixels(i), pixels(i + 1)) for i in range(NUM_SCENES)]
    assert min(edited) > 0.8
    assert np.median(other) < 0.5


def test_more_erased_is_less_alike():
    index = next(i for i in range(100) if len(scene(1, i, 256).objects) >= 3)
    both = scene(1, index, 256)
    mask = np.zeros((256, 256), np.uint8)
    values = []
    for thing in both.objects[:3]:
        mask |= cv2.dilate(thing.mask.astype(np.uint8), np.ones((7, 7), np.uint8))
        edited = cv2.inpaint(both.pixels, mask, 5, cv2.INPAINT_TELEA)
        values.append(cosine(GradientGrid(), both.pixels, edited))
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
def test_only_the_cpu_is_accepted(backend):
    assert backend.load(Device()) == backend
    with pytest.raises(ValueError, match="cuda:0"):
        backend.load(Device("cuda:0"))


@dataclass
class Counting:
    """A real embedder that remembers how many images it was shown."""

    name: Literal["counting"] = "counting"
    shown: list = field(default_factory=list, compare=False)
    gives: object = field(default=None, compare=False)

    def load(self, device):
        return self

    def close(self):
        pass

    def embed(self, images):
        self.shown.append(len(images))
        return GradientGrid().embed(images) if self.gives is None else self.gives


def test_scores_come_in_order_and_each_image_is_embedded_once():
    one, two = encode_jpeg(pixels(0)), encode_jpeg(pixels(1))
    edits = [encode_jpeg(erased(0)), encode_jpeg(recolored(0)), encode_jpeg(erased(1))]
    detail = Counting()
    stage = opened(Embedder(ColorLayout(), detail))
    batch = [
        candidate("a", one, edits[0]),
        candidate("a", one, edits[1]),
        candidate("b", two, edits[2]),
        candidate("b", two, two),
    ]
    outcomes = stage.process(batch)
    assert detail.shown == [5]
    assert [o[0].candidate for o in outcomes] == batch
    scores = [o[0].scores for o in outcomes]
    for given, record in zip(scores, batch, strict=True):
        first, second = decode(record.chosen_image), decode(record.rejected_image)
        assert given["appearance"] == pytest.approx(cosine(ColorLayout(), first, second), abs=1e-5)
        assert given["detail"] == pytest.approx(cosine(GradientGrid(), first, second), abs=1e-5)
    assert scores[3] == pytest.approx({"appearance": 1.0, "detail": 1.0}, abs=1e-12)
    # A record's scores are its own: not a matter of what else was in the batch.
    assert [stage.process([c])[0][0].scores for c in batch] == scores
    assert stage.process([]) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.full((2, 4), np.nan), "length nan"),
        (np.ones((2, 4)), "length 2.0"),
        (np.eye(3), r"shape \(3, 3\) for 2 images"),
    ],
)
def test_a_broken_backend_is_trouble(rows, message):
    stage = opened(Embedder(ColorLayout(), Counting(gives=rows)))
    with pytest.raises(ValueError, match=message):
        stage.process([candidate("a", encode_jpeg(pixels(0)), encode_jpeg(pixels(1)))])


def test_an_undecodable_image_is_trouble():
    with pytest.raises(OSError, match="cannot identify image"):
        opened(Embedder(*BACKENDS)).process([candidate("a", Image(b"no"), Image(b"no"))])


def test_backends_fit_the_protocol_and_refuse_unknown_settings():
    for backend in BACKENDS:
        assert isinstance(backend, EmbedderModel)
        adapter = TypeAdapter(type(backend))
        assert adapter.validate_python({"name": backend.name, "grid": 16}).grid == 16
        for wrong in ({"gird": 8}, {"grid": 0}, {"name": "other"}):
            with pytest.raises(ValidationError):
                adapter.validate_python(wrong)
