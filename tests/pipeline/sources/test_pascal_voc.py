"""Pascal VOC in the shape of the released files: VOC2007 and VOC2012."""

from __future__ import annotations

import io

import PIL.Image
import pytest

from pipeline.sources import SourceError, open_source
from pipeline.sources.formats.pascal_voc import sentence
from schemas.geometry import Box
from schemas.records import Reason, Seed
from stages.read.loader import Loader

# VOC2012 writes the corners in either order, and parts and floats where people were laid out.
LAID_OUT = """<annotation>
	<folder>VOC2012</folder>
	<filename>2007_000027.jpg</filename>
	<source>
		<database>The VOC2007 Database</database>
		<annotation>PASCAL VOC2007</annotation>
		<image>flickr</image>
	</source>
	<size><width>60</width><height>50</height><depth>3</depth></size>
	<segmented>0</segmented>
	<object>
		<name>person</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<part>
			<name>head</name>
			<bndbox><xmin>21</xmin><ymin>5</ymin><xmax>26</xmax><ymax>9</ymax></bndbox>
		</part>
		<bndbox>
			<xmax>40.5</xmax>
			<xmin>18.29999952316284</xmin>
			<ymax>50</ymax>
			<ymin>1</ymin>
		</bndbox>
		<part>
			<name>hand</name>
			<bndbox><xmin>22</xmin><ymin>15</ymin><xmax>25</xmax><ymax>19</ymax></bndbox>
		</part>
	</object>
	<object>
		<name>person</name>
		<truncated>1</truncated>
		<difficult>0</difficult>
		<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>50</ymax></bndbox>
	</object>
	<object>
		<name>chair</name>
		<difficult>1</difficult>
		<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
	</object>
</annotation>
"""
PLAIN = """<annotation><filename>{}</filename><size><width>60</width><height>50</height></size>
<object><name>{}</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>4</xmax><ymax>5</ymax></bndbox>
</object></annotation>"""


def image(level):
    sink = io.BytesIO()
    PIL.Image.new("RGB", (60, 50), (level, level, level)).save(sink, "PNG")
    return sink.getvalue()


def devkit(folder):
    """VOCdevkit/VOC2012, with an image of another suffix than its annotation says, and one lost."""
    year = folder / "VOC2012"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (year / name).mkdir(parents=True)
    (year / "Annotations" / "2007_000027.xml").write_text(LAID_OUT)
    (year / "Annotations" / "2008_000008.xml").write_text(
        PLAIN.format("2008_000008.jpg", "diningtable")
    )
    (year / "Annotations" / "2008_000015.xml").write_text(PLAIN.format("2008_000015.jpg", "sofa"))
    (year / "JPEGImages" / "2007_000027.jpg").write_bytes(image(27))
    (year / "JPEGImages" / "2008_000008.png").write_bytes(image(8))
    sets = year / "ImageSets" / "Main"
    (sets / "val.txt").write_text("2008_000008\n2007_000027\n")
    (sets / "person_trainval.txt").write_text("2007_000027  1\n2008_000008 -1\n2008_000015  0\n")
    return folder


def fails(path, *words):
    with pytest.raises(SourceError) as caught:
        list(open_source(str(path)).rows())
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_devkit(tmp_path):
    source = open_source(str(devkit(tmp_path)), {"chosen": "labels"})
    assert source.mapped.preset == "pascal_voc"
    people, table, lost = source.rows()
    assert (people.seed_id, people.prompt, people.chosen) == (
        "2007_000027",
        "Describe the image.",
        "People.",
    )
    assert people.source == "The VOC2007 Database: VOC2012/Annotations/2007_000027.xml"
    # Counted from 1 and inclusive there, from 0 and half-open here; no part, nothing difficult.
    assert [(r.label, r.box) for r in people.regions] == [
        ("person", Box(17.29999952316284, 0, 40.5, 50)),
        ("person", Box(0, 0, 60, 50)),
    ]
    assert [(r.label, r.box) for r in table.regions] == [("dining table", Box(1, 2, 4, 5))]
    (first,), (second,), third = Loader().process([people, table, lost])
    assert (first.image.bytes, second.image.bytes) == (image(27), image(8))
    assert isinstance(first, Seed)
    assert third.reason is Reason.IMAGE_NOT_FOUND
    assert "JPEGImages/2008_000015.jpg" in third.detail


def test_without_captions_there_is_no_answer(tmp_path):
    seeds = list(open_source(str(devkit(tmp_path))).rows())
    assert {seed.defect.reason for seed in seeds} == {Reason.MISSING_ANSWER}


@pytest.mark.parametrize(
    ("named", "ids"),
    [
        ("VOC2012", ["2007_000027", "2008_000008", "2008_000015"]),
        ("VOC2012/Annotations", ["2007_000027", "2008_000008", "2008_000015"]),
        ("VOC2012/Annotations/2008*.xml", ["2008_000008", "2008_000015"]),
        ("VOC2012/Annotations/2008_000008.xml", ["2008_000008"]),
        ("VOC2012/ImageSets/Main/val.txt", ["2008_000008", "2007_000027"]),
        ("VOC2012/ImageSets/Main/person_trainval.txt", ["2007_000027", "2008_000015"]),
    ],
)
def test_what_a_user_may_name(tmp_path, named, ids):
    seeds = list(open_source(str(devkit(tmp_path) / named)).rows())
    assert [seed.seed_id for seed in seeds] == ids
    assert all(seed.image.path.startswith(f"{tmp_path}/VOC2012/JPEGImages/") for seed in seeds)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object></annotation>", ("not valid XML", "line 1")),
        ("", ("not valid XML", "no element")),
        ("<html/>", ("found <html>", "<annotation>")),
        (
            '<!DOCTYPE a [<!ENTITY x "y"><!ENTITY z "&x;&x;">]><annotation>&z;</annotation>',
            ("declares a document type",),
        ),
        (PLAIN.replace(">2<", ">two<").format("a", "b"), ("object 0 bndbox", "'two'", "xmin")),
        ("<annotation><object><name>a</name></object></annotation>", ("object 0 bndbox", "''")),
        (PLAIN.replace(">2<", ">9<").format("a", "b"), ("objects[0].box", "wrong order")),
        (PLAIN.replace(">2<", ">nan<").format("a", "b"), ("objects[0].box", "finite")),
        (PLAIN.format("a", " "), ("objects[0].label", "a name")),
    ],
)
def test_errors_name_the_file(tmp_path, text, words):
    file = devkit(tmp_path) / "VOC2012" / "Annotations" / "2008_000008.xml"
    file.write_text(text)
    fails(tmp_path, str(file), *words)


def test_lists_that_name_nothing_to_read(tmp_path):
    sets = devkit(tmp_path) / "VOC2012" / "ImageSets" / "Main"
    (sets / "val.txt").write_text("2009_000001\n")
    fails(sets / "val.txt", "Annotations/2009_000001.xml", "cannot be read")
    (sets / "val.txt").write_text("2007_000027 -1\n")
    fails(sets / "val.txt", "val.txt", "names no image")


def test_two_layouts_in_one_folder_are_told_apart_by_the_preset(tmp_path):
    (devkit(tmp_path) / "captions_val2017.json").write_text('{"annotations": [], "images": []}')
    fails(tmp_path, "holds both captions_*.json and Annotations/*.xml", "preset=coco")
    assert len(list(open_source(str(tmp_path), {"preset": "pascal_voc"}).rows())) == 3


def test_the_sentence_that_names_the_objects():
    assert sentence([]) is None
    assert sentence(["aeroplane"]) == "An aeroplane."
    labels = ["dog", "person", "person", "tv monitor", "sheep", "sheep"]
    assert sentence(labels) == "A dog, people, a tv monitor and sheep."
