from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.geometry import Box, Mask
from schemas.known import Known
from schemas.records import Drop, Kind, Reason, Region, Seed, Segmented
from stages.edit.oklab import COLOR_NAMES, distance_to, name_map, oklab_of, to_oklab, to_rgb
from stages.edit.recolorer import Recolorer
from stages.pixels import decode, encode_jpeg

HEIGHT, WIDTH = 96, 128
BOX = Box(32, 24, 96, 72)
RED, WHITE, BLACK, BLUE = (190, 30, 35), (235, 233, 228), (12, 12, 12), (30, 70, 190)
LABEL, CHOSEN = "red cup", "A tall red cup stands on the grass."


def scene(
    color=RED, chosen=CHOSEN, label=LABEL, *, prompt="What?", others=(), ground=(96, 130, 70)
):
    """A shaded block of one colour on rough ground, with its exact mask."""
    noise = np.random.default_rng(3).normal(0, 6, (HEIGHT, WIDTH, 1))
    pixels = np.broadcast_to(np.array(ground, float), (HEIGHT, WIDTH, 3)) + noise
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[24:72, 32:96] = True
    shade = np.linspace(0.7, 1.05, WIDTH)[None, :, None]
    pixels = np.where(inside[..., None], np.array(color) * shade + noise / 3, pixels)
    image = encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8))
    region = Region(label, BOX, Mask.from_array(inside))
    regions = (Region(label, BOX), *others)
    seed = Seed("s", 0, image, WIDTH, HEIGHT, prompt, chosen, None, regions, "test", None)
    return Segmented(seed, Known.annotated((region, *others)), 0)


def reason(outcome):
    return outcome.reason if isinstance(outcome, Drop) else None


def named(pixels, name):
    return (name_map(pixels) == COLOR_NAMES.index(name)).mean()


@pytest.mark.parametrize(
    ("color", "name"), [(RED, "red"), (BLUE, "blue"), (WHITE, "white"), ((225, 200, 50), "yellow")]
)
@pytest.mark.parametrize("run_seed", range(3))
def test_image_and_answer_change_color_together(color, name, run_seed):
    record = scene(color, f"A tall {name} cup stands on the grass.", f"{name} cup")
    seed = Seed(**{f: getattr(record.seed, f) for f in Seed.__slots__} | {"run_seed": run_seed})
    (candidate,) = Recolorer().process_one(replace(record, seed=seed))
    target = candidate.params["color"]
    assert target != name
    assert candidate.counterfactual.split()[2] == target
    assert candidate.contrast.target == f"{name} cup"
    assert candidate.contrast.replacement == f"{target} cup"
    assert candidate.contrast.kind == Kind.ATTRIBUTE
    inner = np.s_[30:66, 38:90]
    result = decode(candidate.rejected_image)[inner]
    assert named(result, target) > 0.55
    assert named(result, name) < 0.1
    # Shading stays: what was lighter is lighter.
    light = to_oklab(result)[..., 0].mean(axis=0)
    assert light[-10:].mean() > light[:10].mean() + 0.02


def test_nothing_outside_the_mask_changes():
    record = scene()
    (candidate,) = Recolorer().process_one(record)
    before, after = decode(candidate.chosen_image), decode(candidate.rejected_image)
    outside = np.ones((HEIGHT, WIDTH), bool)
    outside[16:80, 24:104] = False  # JPEG blocks at the edge see both sides
    assert np.array_equal(before[outside], after[outside])


def test_all_mentions_are_swapped_and_others_left():
    chosen = "An red cup stands in front of a yellow bowl. The red cup is full, the wall is red."
    (candidate,) = Recolorer().process_one(scene(chosen=chosen))
    target = candidate.params["color"]
    assert candidate.counterfactual.count(target) == 2
    assert candidate.counterfactual.endswith("the wall is red.")
    assert target != "yellow"
    assert candidate.counterfactual.startswith("An " if target == "orange" else "A ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"chosen": "A tall cup stands on the grass."}, Reason.NO_COLOR_WORD),
        ({"chosen": "A man in a red hat holds a cup.", "label": "man"}, Reason.NO_COLOR_WORD),
        ({"chosen": "A maroon cup stands."}, Reason.NO_COLOR_WORD),
        ({"chosen": "A red cup stands. It is red."}, Reason.NO_COLOR_WORD),
        ({"chosen": "A red cup, painted red, stands."}, Reason.NO_COLOR_WORD),
        ({"chosen": "A red cup stands, its handle is red."}, Reason.NO_COLOR_WORD),
        ({"chosen": "Is the cup red? Yes, the cup is red."}, Reason.NO_COLOR_WORD),
        ({"chosen": "There is no red cup."}, Reason.NO_COLOR_WORD),
        ({"chosen": "The wheel of the cup is red."}, Reason.NO_COLOR_WORD),
        ({"chosen": "A red cup and plate stand."}, Reason.AMBIGUOUS_REGION),
        ({"chosen": "The Red Cup is a tall cup."}, Reason.NO_COLOR_WORD),
        ({"prompt": "What is the red cup on?"}, Reason.NO_COLOR_WORD),
        ({"chosen": "Two red cups stand."}, Reason.AMBIGUOUS_REGION),
        ({"chosen": "A red cup and a red cup stand."}, Reason.AMBIGUOUS_REGION),
        ({"others": (Region("red cup", Box(0, 0, 9, 9)),)}, Reason.AMBIGUOUS_REGION),
        ({"color": BLUE}, Reason.COLOR_MISMATCH),
        ({"ground": RED}, Reason.BAD_SEGMENTATION),
        (
            {"color": BLACK, "chosen": "A black cup stands.", "label": "cup"},
            Reason.COLOR_MISMATCH,
        ),
    ],
)
def test_what_would_not_be_honest_is_dropped(changes, expected):
    assert reason(Recolorer().process_one(scene(**changes))) == expected


def test_the_same_color_of_another_thing_stays():
    chosen = "A red and white dog lies under a red cup."
    (candidate,) = Recolorer().process_one(scene(chosen=chosen))
    assert candidate.counterfactual.startswith("A red and white dog lies under a")
    assert not candidate.counterfactual.endswith("red cup.")


@pytest.mark.parametrize(
    ("box", "word", "dropped"),
    [
        (Box(40, 30, 80, 60), "red", True),
        (Box(40, 30, 80, 60), "blue", False),
        (Box(0, 0, 30, 90), "red", False),
    ],
)
def test_a_thing_of_the_same_color_on_it_would_change_too(box, word, dropped):
    chosen = f"A red cup has a {word} logo."
    outcome = Recolorer().process_one(scene(chosen=chosen, others=(Region("logo", box),)))
    assert (reason(outcome) == Reason.AMBIGUOUS_REGION) is dropped


def test_another_cup_of_another_color_does_not_matter():
    others = (Region("yellow cup", Box(0, 0, 9, 9)),)
    assert reason(Recolorer().process_one(scene(others=others))) is None


def test_same_row_same_color_and_rows_differ():
    record = scene()
    first = Recolorer().process_one(record)
    assert Recolorer().process_one(record) == first
    seeds = [
        Seed(**{f: getattr(record.seed, f) for f in Seed.__slots__} | {"seed_id": str(i)})
        for i in range(12)
    ]
    drawn = {Recolorer().process_one(replace(record, seed=s))[0].params["color"] for s in seeds}
    assert len(drawn) >= 3


@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=20))
def test_oklab_round_trip(colors):
    pixels = np.array(colors, np.uint8)
    back = to_rgb(to_oklab(pixels))
    assert np.abs(back.astype(int) - pixels).max() <= 1


@pytest.mark.parametrize(
    ("color", "name"),
    [
        ("ff0000", "red"),
        ("0000ff", "blue"),
        ("008000", "green"),
        ("ffff00", "yellow"),
        ("ffa500", "orange"),
        ("800080", "purple"),
        ("ffc0cb", "pink"),
        ("8b4513", "brown"),
        ("808080", "gray"),
        ("ffffff", "white"),
        ("000000", "black"),
    ],
)
def test_names_of_the_css_colors(color, name):
    pixel = np.frombuffer(bytes.fromhex(color), np.uint8)
    assert COLOR_NAMES[name_map(pixel)] == name
    assert distance_to(oklab_of(color), name) == min(
        distance_to(oklab_of(color), other) for other in COLOR_NAMES
    )
