"""COCO files as they come: what cannot be used is named in one line and left out, and the rest is read."""

from __future__ import annotations

import copy
import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg.cli import main
from ovseg.data.checking import check_dataset
from ovseg.data.coco_entries import Index, id_key
from ovseg.data.coco_json import read_coco_json
from ovseg.data.own_data import read_folder
from ovseg.data.registration import read_dataset
from ovseg.errors import InputError, OvsegError
from ovseg.evaluation.metrics.instance_masks import true_instances
from ovseg.vocabulary import Vocabulary

HEIGHT, WIDTH = 12, 16
SIZE = (HEIGHT, WIDTH)


def box(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


INSTANCES = {
    "images": [{"id": i + 1, "file_name": f"im{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(2)],
    "categories": [{"id": 7, "name": "cat"}, {"id": 0, "name": "dog"}, {"id": 90, "name": "person"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "segmentation": box(0, 0, 4, 12), "iscrowd": 0, "area": 48},
        {"id": 2, "image_id": 1, "category_id": 0, "segmentation": box(8, 0, 4, 12), "iscrowd": 0, "area": 48},
        {"id": 3, "image_id": 2, "category_id": 90, "segmentation": box(4, 0, 4, 12), "iscrowd": 0, "area": 48},
    ],
}
PANOPTIC = {
    **INSTANCES,
    "annotations": [
        {
            "image_id": i + 1,
            "file_name": f"im{i}.png",
            "segments_info": [{"id": n, "category_id": c} for n, c in ((5, 7), (300, 0), (70000, 90))],
        }
        for i in range(2)
    ],
}

PANOPTIC_3 = {
    **PANOPTIC,
    "images": [*PANOPTIC["images"], {**PANOPTIC["images"][1], "id": 3, "file_name": "im2.jpg"}],
    "annotations": [*PANOPTIC["annotations"], {**PANOPTIC["annotations"][1], "image_id": 3, "file_name": "im2.png"}],
}


@pytest.fixture
def folder(tmp_path):
    """Two images, and their panoptic pictures: void, segments 5, 300 and 70000 in stripes of four pixels."""
    (tmp_path / "set/images").mkdir(parents=True)
    (tmp_path / "set/panoptic").mkdir()
    ids = np.repeat([0, 5, 300, 70000], 4)[None].repeat(HEIGHT, 0)
    for i in range(2):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / f"set/images/im{i}.jpg")
        Image.fromarray(colours(ids)).save(tmp_path / f"set/panoptic/im{i}.png")
    return tmp_path / "set"


def colours(ids):
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)


def write(folder, change, content=INSTANCES):
    content = copy.deepcopy(content)
    change(content)
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def stripes(dataset, index=0):
    return dataset.read_segments(dataset.records[index], SIZE).semantic()[0, ::4].tolist()


def one(key, value, place=0, of="annotations"):
    """A change of one value of one entry; a value `...` takes the key away."""

    def change(content):
        entry = content[of][place]
        entry.pop(key, None)
        if value is not ...:
            entry[key] = value

    return change


SOUND = [[0, -1, 1, -1], [-1, 2, -1, -1]]
NO_CAT = [[-1, -1, 1, -1], [-1, 2, -1, -1]]
"""What is left when annotation 1 is left out: its pixels are void."""
NO_CAT_CLASS = [[-1, -1, 0, -1], [-1, 1, -1, -1]]
"""The same where category 7 is left out, too."""


@pytest.mark.parametrize(
    ("change", "line", "left"),
    [
        (
            one("segmentation", [[1, 1, 9, 9]]),
            "annotation 1 of 'im0.jpg' is left out: its polygon has 4 numbers",
            NO_CAT,
        ),
        (
            one("segmentation", [[1, 1, 9, 9, 3]]),
            "annotation 1 of 'im0.jpg' is left out: its polygon has 5 num",
            NO_CAT,
        ),
        (one("segmentation", []), "annotation 1 of 'im0.jpg' is left out: it has no outline", NO_CAT),
        (one("segmentation", None), "annotation 1 of 'im0.jpg' is left out: it has no outline", NO_CAT),
        (one("segmentation", ...), "annotation 1 of 'im0.jpg' is left out: it has no outline", NO_CAT),
        (one("segmentation", [math.nan] * 8), "annotation 1 of 'im0.jpg' is left out: its polygon stands", NO_CAT),
        (one("segmentation", [[math.nan] * 8]), "annotation 1 of 'im0.jpg' is left out: its polygon holds nan", NO_CAT),
        (
            one("segmentation", [[2e8, 1, 9, 1, 9, 9]]),
            "annotation 1 of 'im0.jpg' is left out: its polygon has t",
            NO_CAT,
        ),
        (
            one("segmentation", [box(0, 0, 4, 4)]),
            "annotation 1 of 'im0.jpg' is left out: its polygon is nested",
            NO_CAT,
        ),
        (
            one("segmentation", {"size": [WIDTH, HEIGHT], "counts": [0, 192]}),
            "annotation 1 of 'im0.jpg' is left out: its run lengths are of size [16, 12], the image of [12, 16]",
            NO_CAT,
        ),
        (
            one("segmentation", {"size": list(SIZE), "counts": [0, -5, 197]}),
            "annotation 1 of 'im0.jpg' is left out: its run lengths hold -5",
            NO_CAT,
        ),
        (
            one("segmentation", {"size": list(SIZE), "counts": "ZZZ"}),
            "annotation 1 of 'im0.jpg' is left out: its run lengths 'ZZZ' are cut or garbled",
            NO_CAT,
        ),
        (
            one("segmentation", [*box(0, 0, 4, 12), [1, 1, 2, 2]]),
            "1 of 2 polygons of annotation 1 of 'im0.jpg' are left out: they have fewer than three corners",
            SOUND,
        ),
        (one("image_id", 999), "annotation 1 is left out: it belongs to image 999, which images does not list", NO_CAT),
        (one("image_id", ...), "annotation 1 is left out: it belongs to image None, which images does not", NO_CAT),
        (one("image_id", 1.5), "annotation 1 is left out: it belongs to image 1.5, which images does not", NO_CAT),
        (one("category_id", 5), "annotation 1 of 'im0.jpg' is left out: it has category 5, which categories", NO_CAT),
        (one("category_id", True), "annotation 1 of 'im0.jpg' is left out: it has category True, which", NO_CAT),
        (
            one("image_id", "1"),
            "ids of images are written otherwise than where they are listed ('1' for 1; 1 in",
            SOUND,
        ),
        (
            one("image_id", 1.0),
            "ids of images are written otherwise than where they are listed (1.0 for 1; 1 in",
            SOUND,
        ),
        (one("category_id", "7"), "ids of categories are written otherwise than where they are listed ('7' fo", SOUND),
        (one("id", "7", of="categories"), "ids of categories are written otherwise than where they are listed", SOUND),
        (one("id", 2), "annotation 2 is there twice; both are read, give each its own id", SOUND),
        (lambda c: c["annotations"].append(c["annotations"][0]), "annotation 1 is there twice; read once", SOUND),
        (lambda c: c["annotations"].append(None), "annotation number 4 is left out: it is no object with keys", SOUND),
        (one("iscrowd", "yes"), "annotation 1 has iscrowd 'yes'; expected 0 or 1, taken as 0", SOUND),
        (one("iscrowd", 2), "annotation 1 has iscrowd 2; expected 0 or 1, taken as 0", SOUND),
        (one("area", math.nan), "annotation 1 has area nan; expected a number of pixels", SOUND),
        (one("area", -3), "annotation 1 has area -3; expected a number of pixels", SOUND),
        (
            lambda c: c["categories"].append({"id": 7, "name": "tiger"}),
            "category id 7 is that of 'cat' and 'tiger'; 1 with it are left out, give each its own id",
            NO_CAT,
        ),
        (
            lambda c: c["categories"].append({"id": 8, "name": "Cat"}),
            "two categories (ids 7 and 8) are called 'Cat'; read as one class, delete one",
            SOUND,
        ),
        (lambda c: c["categories"].append({"id": 8}), "category 8 is left out: key 'name' is missing", SOUND),
        (
            lambda c: c["categories"].append({"id": None, "name": "x"}),
            "category 'x' is left out: key 'id' is missing",
            SOUND,
        ),
        (
            lambda c: c["categories"].append({"id": 1.5, "name": "x"}),
            "category 'x' is left out: its id is 1.5; give it a number",
            SOUND,
        ),
        (one("name", 3, of="categories"), "category 7 is left out: its name is 3 (int); expected a name", NO_CAT_CLASS),
        (one("name", "a|b", of="categories"), "category 'a|b' is left out: its name ('a|b') holds a '|'", NO_CAT_CLASS),
        (one("name", "", of="categories"), "category 7 is left out: its name is empty", NO_CAT_CLASS),
        (
            one("file_name", "\ud800.jpg", of="images"),
            "image number 1 is left out: its file_name is '\\ud800",
            SOUND[1:],
        ),
        (one("width", 1e308, of="images"), "image 'im0.jpg' has height 12 and width 1e+308; expected its", SOUND),
        (
            one("segmentation", [[20, 1, 30, 1, 30, 9]]),
            "annotation 1 of 'im0.jpg' is left out: its polygon lies outside of the image of 16x12 pixels",
            NO_CAT,
        ),
        (
            one("segmentation", [[0.1, 0.1, 0.5, 0.1, 0.5, 1]]),
            "annotation 1 of 'im0.jpg' is left out: its polygon has numbers from 0 to 1 alone; expected pixels, mult",
            NO_CAT,
        ),
        (
            one("isthing", "no", of="categories"),
            "category 'cat' has isthing 'no'; expected 0 or 1, taken as a t",
            SOUND,
        ),
        (
            lambda c: c["images"].append(dict(c["images"][0])),
            "image 'im0.jpg' is listed more than once; read on",
            SOUND,
        ),
        (
            lambda c: c["images"].append({**c["images"][0], "id": 9}),
            "image 'im0.jpg' is listed more than once; read once, with the annotations of all its entries",
            SOUND,
        ),
        (
            lambda c: c["images"].append({**c["images"][1], "id": 1}),
            "image id 1 is that of 2 files ('im0.jpg', 'im1.jpg'), so that nobody knows whose its annotations are",
            SOUND[1:],
        ),
        (one("file_name", ..., of="images"), "image number 1 is left out: its file_name is None; name", SOUND[1:]),
        (one("file_name", "a\nb", of="images"), "image number 1 is left out: its file_name is 'a\\nb'", SOUND[1:]),
        (one("file_name", "a\0b", of="images"), "image number 1 is left out: its file_name is 'a\\x00b'", SOUND[1:]),
        (one("id", None, of="images"), "image 'im0.jpg' is left out: its id is None; give it a number", None),
        (one("width", -16, of="images"), "image 'im0.jpg' has height 12 and width -16; expected its size", SOUND),
        (one("width", math.nan, of="images"), "image 'im0.jpg' has height 12 and width nan; expected its", SOUND),
        (one("height", "tall", of="images"), "image 'im0.jpg' has height 'tall' and width 16; expected its", SOUND),
    ],
)
def test_a_fault_is_one_line_and_the_rest_is_read(folder, change, line, left):
    dataset = read_folder(write(folder, change))
    problems = [one for one in dataset.left_out if "left out: it belongs to image 1," not in one or left is None]
    assert problems[0].startswith(f"'annotations.json': {line}"), problems
    assert len(problems) == (1 if left is not None else 3) and "\n" not in problems[0]
    report = check_dataset(dataset)
    assert report.left_out == list(dataset.left_out) and report.images == len(dataset.records)
    assert not report.problems  # training goes on
    if left is not None:
        assert [stripes(dataset, i) for i in range(len(left))] == left
    for record in dataset.records:
        true_instances(dataset, record, SIZE)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: [one.pop(key) for one in c["images"] for key in ("height", "width")],
        one("iscrowd", None),
        one("iscrowd", "0"),
        one("area", ...),
        one("id", ...),
        one("width", 16.0, of="images"),
        one("segmentation", [[-4.5, -3, 4, -3, 4, 12, -4.5, 12]]),
        one("file_name", "../images/im0.jpg", of="images"),
        one("file_name", "sub\\..\\im0.jpg", of="images"),
        lambda c: (
            [one.update(image_id=f"im{one['image_id']}") for one in c["annotations"]]
            + [one.update(id=f"im{one['id']}") for one in c["images"]]
        ),
        lambda c: (
            [one.update(id=f"0{one['id']}") for one in (*c["images"], *c["categories"])]
            + [
                one.update(image_id=f"0{one['image_id']}", category_id=f"0{one['category_id']}")
                for one in c["annotations"]
            ]
        ),
    ],
)
def test_what_is_no_fault(folder, change):
    dataset = read_folder(write(folder, change))
    assert (dataset.problems, dataset.left_out, dataset.notes) == ((), (), ()) and [
        stripes(dataset, i) for i in range(2)
    ] == SOUND
    assert [dataset.image_name(record) for record in dataset.records] == ["im0.jpg", "im1.jpg"]


def test_a_size_that_is_not_the_pictures_is_the_images_fault(folder):
    dataset = read_folder(write(folder, one("width", 17, of="images")))
    report = check_dataset(dataset)
    assert report.images == 1 and len(report.problems) == 1 and "its JSON says 17x12" in report.problems[0]


@pytest.mark.parametrize("absolute", [True, False])
def test_images_elsewhere_are_read_and_said(folder, absolute):
    other = folder.parent / "other"
    other.mkdir()
    (folder / "images/im0.jpg").rename(other / "im0.jpg")
    name = str(other / "im0.jpg") if absolute else "../../other/im0.jpg"
    dataset = read_folder(write(folder, one("file_name", name, of="images")))
    assert not dataset.problems and not dataset.left_out and [stripes(dataset, i) for i in range(2)] == SOUND
    assert dataset.notes == (f"images of 'annotations.json' lie outside of '{folder}': '{other}/im0.jpg'",)
    assert [dataset.image_name(record) for record in dataset.records] == ["other/im0.jpg", "set/images/im1.jpg"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "it is a list"),
        ("{", "Expecting property name"),
        ("\ufeff{}", "key 'images' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is a dict, no list"),
        ('{"images": [], "annotations": [], "categories": []}', "no category can be used"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}',
            "annotates no image that can be",
        ),
        ('{"images": [{}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}', "its id is None"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_what_is_no_coco_file(folder, content, reason):
    (folder / "annotations.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_coco_json(folder / "annotations.json", folder / "images")
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_synonyms_that_repeat_a_name_are_no_fault(folder):
    """LVIS lists each name among its synonyms, and some words for several categories."""

    def change(content):
        content["categories"][0] |= {"synonyms": ["cat", "CAT", "kitten", None]}
        content["categories"][1] |= {"synonyms": ["dog", "kitten", "person", "hound"]}

    dataset = read_folder(write(folder, change))
    assert [entry.names for entry in dataset.classes] == [("cat", "kitten"), ("dog", "hound"), ("person",)]
    assert not dataset.problems and not dataset.left_out
    assert dataset.notes == (
        "synonyms in 'annotations.json' that repeat a name or another synonym are dropped: 5 (cat, CAT, dog, and 2 "
        "more)",
        "synonyms in 'annotations.json' that are no names in a list are dropped: 1 (None)",
    )
    dataset = read_folder(write(folder, one("synonyms", "kitten", of="categories")))
    assert dataset.notes == ("synonyms in 'annotations.json' that are no names in a list are dropped: 1 ('kitten')",)


def test_known_classes_are_matched_by_id(folder):
    words = Vocabulary.parse(["pet", "hound", "man"])
    path = write(folder, lambda c: c["categories"].reverse()) / "annotations.json"
    dataset = read_coco_json(path, folder / "images", classes=(words, [7, 0, 90]))
    assert dataset.classes == words and stripes(dataset) == SOUND[0] and stripes(dataset, 1) == SOUND[1]
    with pytest.raises(InputError, match="lists 3 categories that are not the 3 of this data set"):
        read_coco_json(path, folder / "images", classes=(words, [7, 0, 91]))


def segment(key, value, place=0):
    return lambda content: one(key, value, place, "segments_info")(content["annotations"][0])


@pytest.mark.parametrize(
    ("change", "line", "left"),
    [
        (lambda c: None, "", [-1, 0, 1, 2]),
        (segment("category_id", 4), "segment 5 of 'im0.jpg' is left out: it has category 4, which", [-1, -1, 1, 2]),
        (segment("category_id", "7"), "ids of categories are written otherwise", [-1, 0, 1, 2]),
        (segment("id", "5"), "", [-1, 0, 1, 2]),
        (segment("id", 5.0), "", [-1, 0, 1, 2]),
        (segment("id", 300), "segment 300 of 'im0.jpg' is left out: it is listed with several", "shows segment 5"),
        (segment("id", 0), "segment 0 of 'im0.jpg' is left out: its id is no colour", "shows segment 5,"),
        (segment("id", None), "segment None of 'im0.jpg' is left out: its id is no colour", "shows segment 5,"),
        (segment("id", -1), "segment -1 of 'im0.jpg' is left out: its id is no colour", "shows segment 5,"),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 300, "category_id": 0}),
            "segment 300 of 'im0.jpg' is listed twice; read once",
            [-1, 0, 1, 2],
        ),
        (
            lambda c: c["annotations"][0]["segments_info"].append({"id": 300, "category_id": 7}),
            "segment 300 of 'im0.jpg' is left out: it is listed with several categories",
            [-1, 0, -1, 2],
        ),
        (lambda c: c["annotations"][0]["segments_info"].append(7), "segment of 'im0.jpg' number 4", [-1, 0, 1, 2]),
        (segment("iscrowd", "x"), "segment 5 of 'im0.jpg' has iscrowd 'x'", [-1, 0, 1, 2]),
        (one("image_id", 99), "annotation number 1 is left out: it belongs to image 99", None),
        (one("file_name", None), "annotation of 'im0.jpg' is left out: its file_name is None; name its PNG", None),
        (one("segments_info", {}), "annotation of 'im0.jpg' is left out: it has no list segments_info", None),
        (one("segments_info", ...), "annotation of 'im0.jpg' is left out: it has no list segments_info", None),
        (
            lambda c: c["annotations"].append(c["annotations"][0]),
            "annotation of 'im0.jpg' is left out: the image has one before it",
            [-1, 0, 1, 2],
        ),
    ],
)
def test_panoptic_faults_are_one_line_and_the_rest_is_read(folder, change, line, left):
    dataset = read_folder(write(folder, change, PANOPTIC))
    assert dataset.kind == "panoptic" and len(dataset.left_out) == bool(line) and not dataset.problems
    if line:
        assert dataset.left_out[0].startswith(f"'annotations.json': {line}"), dataset.left_out
    if left is None:
        assert [dataset.image_name(record) for record in dataset.records] == ["im1.jpg"]
        assert dataset.notes == ("1 of 2 images in 'annotations.json' have no annotation and are left out",)
    elif isinstance(left, str):
        with pytest.raises(InputError, match=left):
            stripes(dataset)
    else:
        assert stripes(dataset) == left
    assert stripes(dataset, -1) == [-1, 0, 1, 2]


def test_a_segment_without_a_pixel(folder):
    more = {"id": 123, "category_id": 0, "area": 50}
    dataset = read_folder(write(folder, lambda c: c["annotations"][0]["segments_info"].append(more), PANOPTIC))
    found = dataset.read_segments(dataset.records[0], SIZE)
    assert found.classes.tolist() == [0, 1, 2] and len(true_instances(dataset, dataset.records[0], SIZE)) == 3
    assert found.empty == (
        f"panoptic mask '{folder}/panoptic/im0.png' has no pixel of segment 123, which its JSON lists; delete it there "
        "or draw it",
    )
    assert dataset.read_segments(dataset.records[1], SIZE).empty == ()


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("RGBA", ""),
        ("P", ""),
        ("L", "has no colours .L.; expected RGB as COCO writes it"),
        ("LA", "has no colours .LA.; expected RGB as COCO writes it"),
        ("I;16", "has no colours .I;16.; expected RGB as COCO writes it"),
        ("", "im0.png' is missing; add it"),
    ],
)
def test_panoptic_pictures_of_other_kinds(folder, mode, reason):
    path = folder / "panoptic/im0.png"
    with Image.open(path) as picture:
        pixels = picture.convert("L" if mode == "I;16" else "RGB").copy()
    if mode == "RGBA":
        pixels.putalpha(Image.fromarray(np.zeros(SIZE, np.uint8)))
    elif mode:
        pixels = pixels.convert(mode) if mode != "P" else pixels.quantize(8)
    pixels.save(path) if mode else path.unlink()
    dataset = read_folder(write(folder, lambda c: None, PANOPTIC))
    if reason:
        with pytest.raises(InputError, match=reason):
            stripes(dataset)
        assert check_dataset(dataset).images == 1
    else:
        assert stripes(dataset) == [-1, 0, 1, 2]


def test_images_where_exports_have_them(folder):
    """FiftyOne has data/ beside labels.json; Roboflow has them beside the file."""
    write(folder, lambda c: None)
    for place in ("data", ""):
        for path in folder.rglob("im*.jpg"):
            (folder / place).mkdir(exist_ok=True)
            path.rename(folder / place / path.name)
        dataset = read_folder(folder)
        assert not dataset.problems and dataset.root == str(folder / place)
        assert [stripes(dataset, i) for i in range(2)] == SOUND


def test_a_picture_of_several_images_is_nobodys(folder):
    dataset = read_folder(write(folder, lambda c: c["annotations"][1].update(file_name="im0.png"), PANOPTIC_3))
    assert [Path(record["file_name"]).name for record in dataset.records] == ["im2.jpg"]
    assert dataset.left_out == tuple(
        f"'annotations.json': annotation of 'im{i}.jpg' is left out: 'im0.png' is the PNG of several images; expected "
        "one for each"
        for i in range(2)
    )


def test_a_key_that_stands_twice(folder):
    """Only the last one is read, and nobody knows which was meant: training refuses it."""
    path = write(folder, lambda c: None) / "annotations.json"
    path.write_text(path.read_text()[:-1] + ', "categories": [{"id": 7, "name": "dog"}, {"id": 0, "name": "cat"}]}')
    (line,) = read_folder(folder).problems
    assert line == (
        "'annotations.json': key 'categories' stands twice in one object, and only the last of them counts; delete one"
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_json(folder, encoding):
    path = write(folder, lambda c: None) / "annotations.json"
    path.write_text(path.read_text(), encoding=encoding)
    (folder / "other.json").write_text("{}")  # so that both are looked into
    assert stripes(read_folder(folder)) == SOUND[0]


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[1]", "null", ""])
def test_a_lone_file_that_is_none_is_named(folder, content):
    """Whatever it is called; labels beside it mean the other layout."""
    (folder / "data.json").write_text(content)
    with pytest.raises(InputError, match=r"data.json' is no COCO file \("):
        read_folder(folder)
    (folder / "labels").mkdir()
    with pytest.raises(InputError, match=r"no data set: classes.txt"):
        read_folder(folder)
    (folder / "annotations").mkdir()
    (folder / "annotations/x.json").mkdir()  # a folder is no file
    with pytest.raises(InputError, match=r"no data set: classes.txt"):
        read_folder(folder)


def test_one_of_several_files_is_chosen(folder, capsys, tmp_path, monkeypatch):
    write(folder, lambda c: None)
    (folder / "annotations").mkdir()
    (folder / "annotations/small_val.json").write_text(
        json.dumps({**INSTANCES, "annotations": INSTANCES["annotations"][:1]})
    )
    with pytest.raises(InputError) as error:
        read_dataset(str(folder))
    assert "holds 2 COCO files (annotations/small_val.json, annotations.json)" in str(error.value)
    assert f"say which one: '{folder}:annotations/small_val.json'" in str(error.value)
    name = f"{folder}:annotations/small_val.json"
    dataset = read_dataset(name)
    assert dataset.name == name and stripes(dataset) == [0, -1, -1, -1] and not dataset.problems
    assert stripes(read_dataset(f"{folder}:annotations.json")) == SOUND[0]
    (folder / "images").rename(folder / "val")  # as COCO has it: annotations/instances_val.json, val/
    assert [stripes(read_dataset(name)), read_dataset(name).root] == [[0, -1, -1, -1], str(folder / "val")]
    monkeypatch.chdir(tmp_path)
    assert main(["datasets", "check", name]) == 0 and "2 of 2 images are sound" in capsys.readouterr().out
    assert main(["datasets", "check", f"{folder}:annotations/smal_val.json"]) == 2
    assert "expected DIR:FILE.json with a file below DIR" in capsys.readouterr().err


def test_ids_find_what_they_mean():
    index = Index([(1, "a"), ("2", "b"), (3, "c"), ("3", "d"), ("x", "e"), (5, "f"), (5, "g")])
    assert [index.find(n) for n in (1, 2, 3, "3", "x", 5, "5", 9, None, True, [], math.nan)] == [
        *("a", "b", "c", "d", "e"),
        *[None] * 7,
    ]
    assert index.shared(5) and index.shared(3.0) and not index.shared(3)
    assert index.respelled == {("2", "'2'"): 1}
    assert [id_key(n) for n in (" 4 ", "-4", "٤", "4.0", "", 4.5, 1e300, "9" * 30)] == [
        *(4, -4, 4, "4.0", None, None),
        *(int(1e300), "9" * 30),
    ]


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.floats()
    | st.sampled_from(["1", "im0.jpg", "x", "im0.png", ""]),
    lambda inner: (
        st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["id", "size", "counts", "name"]), inner)
    ),
    max_leaves=8,
)


@given(st.booleans(), st.sampled_from(["images", "categories", "annotations"]), st.integers(0, 2), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_whatever_a_file_holds(folder, panoptic, of, place, data):
    """One value that may be anything: read, or refused in one line; nothing else is raised, and the process lives."""
    content = copy.deepcopy(PANOPTIC if panoptic else INSTANCES)
    entry = content[of][place % len(content[of])]
    if "segments_info" in entry and data.draw(st.booleans()):
        entry = entry["segments_info"][place]
    entry[data.draw(st.sampled_from([*entry, "synonyms", "iscrowd", "isthing"]))] = data.draw(values)
    (folder / "annotations.json").write_text(json.dumps(content))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pycocotools
            report = check_dataset(read_folder(folder))
            for record in report.dataset.records:
                if record["file_name"].endswith(".jpg"):
                    try:
                        true_instances(report.dataset, record, SIZE)
                    except InputError:
                        continue
        assert all("\n" not in line for line in report.faults)
    except OvsegError as error:
        assert "\n" not in str(error)
