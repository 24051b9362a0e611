from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import replace

import fsspec
import numpy as np
import PIL.Image
import PIL.ImageCms
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.geometry import Box, Mask
from schemas.records import Drop, ImageRef, Reason, Region, Seed, SeedRef
from stages.read.inputs import MissingExtraError, filesystem_of
from stages.read.loader import Loader

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (80, 120, 3), dtype=np.uint8)
SMOOTH = np.stack(
    np.broadcast_arrays(
        np.linspace(20, 235, 120)[None, :],
        np.linspace(20, 235, 80)[:, None],
        np.linspace(235, 20, 120)[None, :],
    ),
    axis=-1,
).astype(np.uint8)


def encoded(image, kind="PNG", **options):
    sink = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    image.save(sink, kind, **options)
    return sink.getvalue()


def ref(data=None, *, path=None, regions=(), seed_id="a", **image):
    return SeedRef(
        seed_id,
        5,
        ImageRef(path, bytes=data, **image),
        "What?",
        "A dog.",
        None,
        regions,
        "file line 1",
        None,
    )


def load(data=None, *, loader=None, **options) -> Seed | Drop:
    (outcome,) = (loader or Loader()).process([ref(data, **options)])
    if isinstance(outcome, Drop):
        return outcome
    (seed,) = outcome
    return seed


def pixels(seed):
    with PIL.Image.open(io.BytesIO(seed.image.bytes)) as image:
        assert image.mode == "RGB"
        assert image.size == (seed.width, seed.height)
        return np.array(image)


def reason(outcome):
    assert isinstance(outcome, Drop), outcome
    assert "\n" not in outcome.detail
    return outcome.reason


def png_header(width, height):
    """A PNG that claims a size and holds one line of pixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", ihdr)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


# What is kept, what is converted


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_good_image_keeps_its_bytes(kind):
    data = encoded(NOISE, kind)
    seed = load(data)
    assert seed.image.bytes == data
    assert (seed.width, seed.height) == (120, 80)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF", "PPM"])
def test_other_formats_become_png(kind):
    seed = load(encoded(SMOOTH, kind))
    assert seed.image.bytes.startswith(b"\x89PNG")
    assert np.abs(pixels(seed).astype(int) - SMOOTH).mean() < 12


def test_a_large_image_is_reduced_and_looks_the_same():
    big = NOISE.repeat(20, axis=0).repeat(20, axis=1)
    want = PIL.Image.fromarray(big).resize((1024, 683), PIL.Image.Resampling.LANCZOS)
    for kind, limit in (("PNG", 0), ("JPEG", 4)):  # JPEG is first decoded at a fraction
        seed = load(encoded(big, kind))
        assert (seed.width, seed.height) == (1024, 683)
        assert np.abs(pixels(seed).astype(int) - np.asarray(want)).mean() <= limit


def test_max_side_zero_never_reduces():
    data = encoded(np.zeros((40, 3000, 3), np.uint8))
    assert load(data, loader=Loader(max_side=0)).image.bytes == data


def test_cmyk_becomes_rgb():
    seed = load(encoded(PIL.Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(pixels(seed).astype(int) - SMOOTH).mean() < 4


def test_sixteen_bits_are_scaled_not_clipped():
    ramp = np.tile(np.linspace(0, 65535, 120).astype(np.uint16), (80, 1))
    got = pixels(load(encoded(PIL.Image.fromarray(ramp))))
    want = np.round(np.linspace(0, 255, 120))
    assert np.abs(got[0, :, 0].astype(int) - want).max() <= 1
    assert (got[..., 0] == got[..., 2]).all()


def test_sixteen_bit_colour_is_stored_with_eight():
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = b"\x00" + struct.pack(">HHH", 65535, 32768, 0) * 40
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(row * 40)) + chunk(b"IEND", b"")
    seed = load(data)
    assert seed.image.bytes[24] == 8
    assert pixels(seed)[0, 0].tolist() == [255, 128, 0]


def test_float_pixels_have_no_defined_white():
    assert reason(load(encoded(PIL.Image.new("F", (50, 50), 0.5), "TIFF"))) is Reason.BAD_IMAGE


def test_transparency_becomes_white():
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[..., 0] = 200
    rgba[:, :20, 3] = 255
    got = pixels(load(encoded(PIL.Image.fromarray(rgba))))
    assert got[0, 0].tolist() == [200, 0, 0]
    assert got[0, 39].tolist() == [255, 255, 255]


def test_transparent_palette_and_grey():
    palette = PIL.Image.new("P", (40, 40), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.paste(0, (0, 0, 20, 40))
    got = pixels(load(encoded(palette, transparency=0)))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 39].tolist() == [10, 200, 30]
    grey = pixels(load(encoded(PIL.Image.new("L", (40, 40), 77))))
    assert (grey == 77).all()


def test_an_animation_gives_its_first_frame():
    frames = [PIL.Image.new("RGB", (40, 40), c) for c in ((250, 0, 0), (0, 250, 0))]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(
            frames[0],
            kind,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if kind == "WEBP" else {}),
        )
        seed = load(data)
        assert seed.image.bytes != data
        assert pixels(seed)[20, 20].tolist() == [250, 0, 0]


def test_wide_gamut_is_converted_and_srgb_is_not():
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    plain = encoded(SMOOTH, icc_profile=srgb)
    assert load(plain).image.bytes == plain
    # The same profile with the red and green primaries exchanged is as far from sRGB as can be.
    swapped = bytearray(srgb)
    names = {bytes(swapped[i : i + 4]): i for i in range(132, 132 + 12 * srgb[131], 12)}
    red, green = names[b"rXYZ"], names[b"gXYZ"]
    swapped[red : red + 4], swapped[green : green + 4] = b"gXYZ", b"rXYZ"
    pure = np.zeros((40, 40, 3), np.uint8)
    pure[..., 0] = 255
    got = pixels(load(encoded(pure, icc_profile=bytes(swapped))))[0, 0].astype(int)
    assert np.abs(got - [0, 255, 0]).max() <= 3


def test_a_damaged_profile_is_passed_over():
    data = encoded(NOISE, icc_profile=b"no profile at all")
    assert load(data).image.bytes == data


# Bad images


def test_every_kind_of_bad_image_is_a_drop(tmp_path):
    jpeg = encoded(NOISE, "JPEG")
    png = encoded(NOISE)
    cases = {
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "text.jpg": b"I am not an image.\n",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\nshowpage\n",
        "damaged.png": png[:60] + bytes(20) + png[80:],
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        outcome = load(path=str(path))
        assert reason(outcome) is Reason.BAD_IMAGE, name
        assert name in outcome.detail


def test_a_missing_file_is_not_found(tmp_path):
    for path in ("nothing.jpg", "x" * 300 + ".jpg", "."):
        assert reason(load(path=str(tmp_path / path))) is Reason.IMAGE_NOT_FOUND
    assert reason(load()) is Reason.IMAGE_NOT_FOUND


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_trouble_not_a_drop(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(NOISE))
    path.chmod(0)
    with pytest.raises(PermissionError):
        load(path=str(path))


def test_trouble_while_reading_is_raised(monkeypatch):
    def refuse(self, path, **options):
        raise ConnectionError("network is down")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", refuse)
    with pytest.raises(ConnectionError):
        load(path="memory://bucket/a.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_seen_in_the_header():
    outcome = load(png_header(60_000, 60_000))
    assert reason(outcome) is Reason.IMAGE_TOO_LARGE
    outcome = load(png_header(11_000, 10_000))
    assert reason(outcome) is Reason.IMAGE_TOO_LARGE
    assert "11000x10000" in outcome.detail
    assert "100000000" in outcome.detail


def test_small_images():
    assert reason(load(encoded(NOISE[:1, :1]))) is Reason.IMAGE_TOO_SMALL
    assert reason(load(encoded(NOISE[:31, :40]))) is Reason.IMAGE_TOO_SMALL
    assert isinstance(load(encoded(NOISE[:32, :40])), Seed)
    # A thin strip is too small once it is reduced.
    strip = encoded(np.zeros((40, 4000, 3), np.uint8))
    assert reason(load(strip)) is Reason.IMAGE_TOO_SMALL


def test_a_defect_of_the_reader_is_the_drop():
    defect = Drop(Reason.MISSING_ANSWER, "no answer")
    (outcome,) = Loader().process([replace(ref(encoded(NOISE)), defect=defect)])
    assert outcome == defect


@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@settings(max_examples=60)
def test_damaged_data_never_raises(kind, seed, cut):
    rng = np.random.default_rng(seed)
    data = bytearray(encoded(SMOOTH, kind))
    if cut:
        del data[rng.integers(len(data)) :]
    for _ in range(0 if cut else 4):
        data[rng.integers(len(data))] = rng.integers(256)
    assert isinstance(load(bytes(data)), Seed | Drop)


# Orientation and regions


def marked():
    """A black image of 120x80 with a white block at columns 90-110, rows 10-30."""
    array = np.zeros((80, 120, 3), np.uint8)
    array[10:30, 90:110] = 255
    return array


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_boxes_refer_to_the_upright_image(orientation, kind):
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the operation that lays an upright one down
    stored = PIL.Image.fromarray(marked())
    if orientation > 1:
        stored = stored.transpose(PIL.Image.Transpose(undo[orientation]))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, kind, exif=exif)
    seed = load(data, regions=(Region("block", Box(90, 10, 110, 30)),))
    assert (seed.width, seed.height) == (120, 80)
    assert np.abs(pixels(seed).astype(int) - marked()).mean() < 2
    assert seed.regions[0].box == Box(90, 10, 110, 30)


def test_regions_are_scaled_and_clipped():
    array = np.zeros((800, 1600, 3), np.uint8)
    mask = np.zeros((800, 1600), bool)
    mask[100:300, 200:600] = True
    region = Region("thing", Box(200, 100, 1700, 300), Mask.from_array(mask), ("red",))
    seed = load(encoded(array), regions=(region,), loader=Loader(max_side=400))
    (got,) = seed.regions
    assert got.box == Box(50, 25, 400, 75)
    assert (got.label, got.attributes) == ("thing", ("red",))
    want = np.zeros((200, 400), bool)
    want[25:75, 50:150] = True
    assert (got.mask.to_array() == want).all()


def test_a_thin_mask_survives_reduction():
    mask = np.zeros((400, 400), bool)
    mask[200] = True
    region = Region("wire", Box(0, 200, 400, 201), Mask.from_array(mask))
    seed = load(
        encoded(np.zeros((400, 400, 3), np.uint8)), regions=(region,), loader=Loader(max_side=100)
    )
    assert seed.regions[0].mask.area == 100


@pytest.mark.parametrize(
    ("box", "mask", "word"),
    [
        (Box(10, 10, 10, 30), None, "empty"),
        (Box(120, 0, 140, 20), None, "outside"),
        (Box(-20, -20, 0, 5), None, "outside"),
        (Box(0, 0, 9, 9), Mask(120, 80, (0, 9600)), "80x120"),
        (Box(0, 0, 9, 9), Mask(80, 120, (0, 9599)), "9599"),
        (Box(0, 0, 9, 9), Mask(80, 120, (9600,)), "empty"),
    ],
)
def test_bad_regions_are_named(box, mask, word):
    fine = Region("fine", Box(0, 0, 50, 50))
    outcome = load(encoded(NOISE), regions=(fine, Region("white dog", box, mask)))
    assert reason(outcome) is Reason.BAD_BOX
    assert "white dog" in outcome.detail
    assert word in outcome.detail


# Where images come from


def test_a_batch_from_everywhere_keeps_its_order(tmp_path):
    fs = fsspec.filesystem("memory")
    images = [encoded(np.full((40, 40, 3), level, np.uint8)) for level in range(0, 240, 20)]
    cells = [{"bytes": data, "path": None} for data in images[:8]]
    for column, values in {"image": cells, "images": [[c] for c in cells]}.items():
        pq.write_table(pa.table({column: values}), tmp_path / f"{column}.parquet", row_group_size=3)
    fs.pipe("/bucket/[odd] name?.png", images[8])
    (tmp_path / "photo.png").write_bytes(images[9])
    single, many = str(tmp_path / "image.parquet"), str(tmp_path / "images.parquet")
    refs = [
        ref(path=single, row=7, column="image"),
        ref(path="memory://bucket/[odd] name?.png"),
        ref(path=many, row=2, column="images"),
        replace(ref(), defect=Drop(Reason.BAD_TEXT, "")),
        ref(images[10]),
        ref(path="memory://bucket/missing.png"),
        ref(path=str(tmp_path / "photo.png")),
        ref(path=single, row=0, column="image"),
        ref(path=single, row=3, column="image"),
        ref(path=many, row=6, column="images"),
    ]
    outcomes = Loader().process(refs)
    levels = [o.reason if isinstance(o, Drop) else int(pixels(o[0])[0, 0, 0]) for o in outcomes]
    assert levels == [140, 160, 40, Reason.BAD_TEXT, 200, Reason.IMAGE_NOT_FOUND, 180, 0, 60, 120]
    assert outcomes[0][0].image.path == "image.parquet#7"
    assert outcomes[6][0].image.path == "photo.png"


def test_a_null_cell_is_an_image_not_found(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": encoded(NOISE), "path": None}, None], kind)
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": cells}), path)
    assert reason(load(path=path, row=1, column="image")) is Reason.IMAGE_NOT_FOUND
    with pytest.raises(ValueError, match="2 rows"):
        load(path=path, row=2, column="image")
    with pytest.raises(ValueError, match="no column 'photo'"):
        load(path=path, row=0, column="photo")


def test_a_missing_package_is_named_with_its_install_line():
    with pytest.raises(MissingExtraError, match=r"pip install 'nearmiss\[gcs\]'"):
        filesystem_of("gs://bucket/a.jpg")


def test_the_record_is_carried_over():
    given_ref = replace(ref(encoded(NOISE)), rejected="A cat.", license="CC0")
    ((seed,),) = Loader().process([given_ref])
    for name in ("seed_id", "run_seed", "prompt", "chosen", "rejected", "source", "license"):
        assert getattr(seed, name) == getattr(given_ref, name)
    assert type(seed.image.bytes) is bytes
