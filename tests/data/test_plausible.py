"""Labels that can be read and still cannot be meant; the check says so, and does not cry wolf."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg.data.checking import check_dataset, require_sound
from ovseg.data.own_data import read_folder
from ovseg.data.plausible import LabelValues, label_faults, label_hints, require_plausible, same_files
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary
from tests.data.test_matching import label_set


def values_of(found, files=1, strange=1):
    values = LabelValues(files=files, strange=strange)
    values.found[list(found)] = True
    return values


def classes(count):
    return tuple(f"c{i}" for i in range(count))


@pytest.mark.parametrize(
    ("count", "found", "text"),
    [
        (2, (0, 255), "0, 255 alone, and 255 means no class: all of 'c1' would be void; class ids are 0 to 1, save 1"),
        (2, (0, 65535), "0, 65535 alone, and 65535 means no class: all of 'c1' would be void"),
        (4, (0, 85, 170, 255), "0, 85, 170, 255, multiples of 85, but class ids are 0 to 3; divide the values by 85"),
        (4, (85, 170), "multiples of 85"),
        (3, (0, 128, 255), "multiples of 255 / 2, but class ids are 0 to 2"),
        (21, (0, 10, 150, 200), "multiples of 10, but class ids are 0 to 20; divide the values by 10"),
        (3, (0, 257, 514), "multiples of 257"),
        (3, (1, 2, 3), "1, 2, 3 and no 0, but class ids are 0 to 2; subtract 1 from each value"),
        (3, (1, 3, 255), "1, 3, 255 and no 0, but class ids are 0 to 2; subtract 1"),
        (2, (0, 1, 2), "which is one more than the 2 classes, but class ids are 0 to 1; if 0 is background, write it"),
        (1, (0, 1), "one more than the 1 class"),
        (2, range(256), "256 values, 253 of them no class; they look like masks that were smoothed"),
    ],
)
def test_values_of_another_scale(tmp_path, count, found, text):
    dataset = label_set(tmp_path, np.zeros((2, 2)), classes(count))
    (line,) = label_faults(dataset, values_of(found))
    assert text in line and "\n" not in line and len(line) < 300


def test_a_few_files_are_no_fault_of_all(tmp_path):
    dataset = label_set(tmp_path, np.zeros((2, 2)), classes(3))
    for found in ((0, 1, 2, 3), (0, 1, 100, 200)):
        assert label_faults(dataset, values_of(found, files=12, strange=3)) == []
    assert label_faults(dataset, values_of((1, 2, 3), files=12, strange=3))  # nowhere a 0


@given(st.data())
def test_sound_values_have_no_fault(tmp_path_factory, data):
    count = data.draw(st.integers(1, 300))
    dataset = label_set(tmp_path_factory.mktemp("set"), np.zeros((2, 2)), classes(count))
    ids = data.draw(st.sets(st.integers(0, count - 1)))
    void = data.draw(st.sets(st.sampled_from([65535] if count > 255 else [255, 65535])))
    if count == 2 and not ids - {0} and void:
        return  # masks of 0 and 255 look so
    assert label_faults(dataset, values_of(ids | void)) == []


def test_white_masks_of_one_class_are_a_hint(tmp_path):
    (line,) = label_hints(label_set(tmp_path, np.zeros((2, 2)), ("crack",)), values_of((0, 255)))
    assert "0 is 'crack' and 255 no class; if it is the other way round" in line
    (line,) = label_hints(label_set(tmp_path, np.zeros((2, 2)), classes(3)), values_of((0, 255)))
    assert "one class of 3" in line
    assert not label_hints(label_set(tmp_path, np.zeros((2, 2)), classes(3)), values_of((0, 1, 255)))


def relabel(folder, change):
    for path in folder.glob("labels/*.png"):
        Image.fromarray(change(np.asarray(Image.open(path)).astype(int)).astype(np.uint8)).save(path)


def test_a_fault_of_all_labels_comes_first_and_stops_training_and_evaluation(own_data):
    relabel(own_data, lambda labels: np.where(labels < 255, labels * 100, 255))
    (own_data / "classes.txt").write_text("glorp\nblix\nsnark\n")
    dataset = read_folder(own_data)
    report = check_dataset(dataset)
    assert report.problems[0].startswith("labels hold the values 0, 100, 255, multiples of 100")
    assert len(report.problems) == 13 and sorted(report.kinds["problems"].values()) == [1, 12]
    with pytest.raises(InputError, match="multiples of 100"):
        require_sound(dataset, 3)
    with pytest.raises(InputError, match="multiples of 100"):
        require_plausible(dataset)


def test_nothing_is_labelled(own_data):
    relabel(own_data, lambda labels: np.full_like(labels, 255))
    report = check_dataset(read_folder(own_data))
    assert report.problems == ["no pixel of any image has a class; expected some of glorp, blix"]
    assert report.kinds["hints"]["image … has no pixel with a class"] == 12
    assert "all 12 label images are equal; are they those of these images?" in report.hints
    assert any(hint.startswith("100.0 % of the pixels have no class in the files") for hint in report.hints)


def test_words_that_drop_everything_that_occurs(own_data):
    (own_data / "classes.txt").write_text("glorp\nblix\nsnark\n")
    dataset = read_folder(own_data).with_classes(Vocabulary.parse(["snark"]))
    report = check_dataset(dataset)
    assert (
        "no pixel of any image has a class, and all that the files have are dropped (glorp, blix)" in report.problems[0]
    )
    assert "dropped 2 classes (glorp, blix): 20.0 % of the pixels" in report.notes
    assert not [hint for hint in report.hints if "of the pixels have no class" in hint]
    assert check_dataset(dataset, 3).problems == []  # others may have it


def test_equal_images_are_named(own_data):
    (own_data / "images/03.jpg").write_bytes((own_data / "images/05.jpg").read_bytes())
    report = check_dataset(read_folder(own_data))
    assert report.problems == [] and len(report.hints) == 1
    assert "2 images hold the same bytes" in report.hints[0] and "05.jpg'" in report.hints[0]


def test_same_files(tmp_path):
    contents = {
        "a": b"x" * 99,
        "b": b"x" * 99,
        "c": b"y" * 99,
        "d": b"x" * 70000 + b"1",
        "e": b"x" * 70000 + b"2",
        "f": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    found = same_files([*(tmp_path / name for name in contents), tmp_path / "missing"])
    assert found == [[str(tmp_path / "a"), str(tmp_path / "b")]]


def test_a_panoptic_segment_without_a_pixel(tmp_path):
    for name in ("images", "panoptic"):
        (tmp_path / name).mkdir()
    ids = np.zeros((8, 8, 3), np.uint8)
    ids[2:, :, 0] = 5
    Image.fromarray(ids).save(tmp_path / "panoptic/a.png")
    Image.fromarray(ids).save(tmp_path / "images/a.png")
    infos = [{"id": 5, "category_id": 1}, {"id": 123, "category_id": 1}]
    data = {
        "images": [{"id": 0, "file_name": "a.png"}],
        "annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": infos}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(data))
    report = check_dataset(read_folder(tmp_path))
    assert len(report.problems) == 1 and report.images == 1
    assert "panoptic/a.png' has no pixel of segment 123, which its JSON lists" in report.problems[0]


def test_evaluation_of_nothing_is_refused(own_data):
    relabel(own_data, lambda labels: np.full_like(labels, 255))
    with pytest.raises(InputError, match=r"own': no pixel of any image has a class; expected some of glorp, blix"):
        require_plausible(read_folder(own_data))
    relabel(own_data, lambda labels: labels * 0 + 1)
    require_plausible(read_folder(own_data))
    for path in own_data.glob("labels/*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(InputError, match=r"has no image that can be used .12 labels are called STEM_mask.png"):
        require_plausible(read_folder(own_data))
