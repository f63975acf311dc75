"""Folders of users: two layouts, everything that can be wrong with them, and the catalogs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ovseg.data.checking import check_dataset, require_sound
from ovseg.data.dataset import read_label_image
from ovseg.data.own_data import read_folder
from ovseg.data.registration import load_datasets, read_dataset, register_dataset
from ovseg.errors import InputError, UnknownNameError, VocabularyError
from ovseg.evaluation.reports.pictures import draw_samples
from ovseg.vocabulary import Vocabulary


def segments(dataset, index=0, size=(40, 48)):
    return dataset.read_segments(dataset.records[index], size)


def test_labels_layout(own_data):
    dataset = read_folder(own_data)
    assert dataset.kind == "semantic" and len(dataset.records) == 12 and not dataset.problems
    assert dataset.classes[0].names == ("glorp", "glorps") and dataset.ignore_label == 255
    found = segments(dataset)
    truth, bits = read_label_image(own_data / "labels/00.png")
    assert bits == 8 and found.ids.dtype == np.int32
    np.testing.assert_array_equal(found.semantic(), np.where(truth == 255, -1, truth.astype(int)))


def test_coco_json_draws_small_objects_on_top(own_data, write_coco):
    write_coco(own_data)
    dataset = read_folder(own_data)
    found = segments(dataset)
    assert dataset.kind == "instance" and dataset.classes.names == ["glorp", "blix"]
    assert found.classes.tolist() == [1, 0, 0] and found.crowd.tolist() == [False, False, True]
    semantic = found.semantic()
    assert semantic[4, 4] == 0 and semantic[15, 20] == 1 and semantic[30, 20] == -1 and (semantic[:, 47] == 0).all()


def test_scenes_layout_and_a_vocabulary(tmp_path):
    folder = tmp_path / "scenes"
    for name in ("images", "panoptic"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "images/a.png")
    ids = np.zeros((8, 8, 3), np.uint8)
    ids[:4, :, 0], ids[4:, :, 1] = 5, 2  # segments 5 and 512; one row of void
    ids[7] = 0
    Image.fromarray(ids).save(folder / "panoptic/a.png")
    infos = [{"id": 5, "category_id": 1, "iscrowd": 0}, {"id": 512, "category_id": 4, "iscrowd": 0}]
    data = {
        "images": [{"id": 0, "file_name": "a.png", "height": 8, "width": 8}],
        "annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": infos}],
        "categories": [{"id": i, "name": n, "isthing": i < 3} for i, n in ((1, "cat"), (2, "dog"), (4, "sky"))],
    }
    (folder / "panoptic.json").write_text(json.dumps(data))
    dataset = read_folder(folder)
    found = segments(dataset, size=(8, 8))
    assert dataset.kind == "panoptic" and found.classes.tolist() == [0, 2]
    assert found.semantic()[:, 0].tolist() == [0] * 4 + [2] * 3 + [-1]
    assert [entry.is_thing for entry in dataset.classes] == [True, True, False]
    picked = segments(dataset.with_classes(Vocabulary.parse(["sky", "sea"])), size=(8, 8))
    assert picked.classes.tolist() == [0] and picked.semantic()[:, 0].tolist() == [-1] * 4 + [0] * 3 + [-1]
    renamed = dataset.renamed({"cat": ("a",), "sky": ("b",)})
    assert renamed.classes.names == ["a", "dog", "b"] and segments(renamed, size=(8, 8)).classes.tolist() == [0, 2]
    with pytest.raises(InputError, match=r"3 classes .cat, dog, sky., none of them in the 2 of the vocabulary"):
        dataset.with_classes(Vocabulary.parse(["sea", "sun"]))
    data["annotations"][0]["segments_info"] = infos[:1]
    (folder / "panoptic.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="shows segment 512, which its JSON does not list"):
        segments(read_folder(folder), size=(8, 8))


def test_many_classes_need_16_bits(own_data):
    (own_data / "classes.txt").write_text("\n".join(f"thing number {i}" for i in range(300)))
    dataset = read_folder(own_data)
    assert dataset.ignore_label == 65535
    with pytest.raises(InputError, match="has 8 bits, which hold 255 classes and void; the list has 300"):
        segments(dataset)
    labels = np.full((40, 48), 299, np.uint16)
    labels[0], labels[1] = 65535, 255
    Image.fromarray(labels).save(own_data / "labels/00.png")
    assert segments(dataset).classes.tolist() == [255, 299] and (segments(dataset).semantic()[0] == -1).all()


def test_problems_one_line_each(own_data):
    (own_data / "labels/03.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(own_data / "labels/zz.png")
    Image.fromarray(np.full((40, 48), 2, np.uint8)).save(own_data / "labels/04.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(own_data / "labels/05.png")
    Image.fromarray(np.zeros((40, 48, 3), np.uint8)).save(own_data / "labels/06.png")
    (own_data / "labels/07.png").write_bytes(b"nonsense")
    (own_data / "images/08.jpg").write_bytes(b"")
    report = check_dataset(read_folder(own_data))
    expected = (
        "03.jpg' has no label; expected",
        "zz.png' has no image; expected",
        "04.png' holds the value 2 (1920 pixels); expected 0 to 1, or 255 or 65535 for void",
        "05.jpg' are 40x40 pixels, the image 48x40",
        "06.png' has 3 channels (RGB)",
        "07.png' cannot be read",
        "08.jpg' is empty",
    )
    assert len(report.problems) == len(expected) and all("\n" not in problem for problem in report.problems)
    for text in expected:
        assert sum(text in problem for problem in report.problems) == 1, text
    assert report.images == 6 and (report.in_images == 6).all() and report.void > 0
    assert draw_samples(report.dataset).width > 100
    with pytest.raises(InputError, match=r"\(and 1 more; see `ovseg datasets check "):
        require_sound(report.dataset, 1)


def test_a_sound_data_set(own_data):
    report = check_dataset(read_folder(own_data))
    assert report.problems == [] and report.images == 12 and report.depths == {8: 12}
    assert (report.pixels > 0).all() and report.pixels.sum() + report.void == 12 * 40 * 48
    require_sound(report.dataset, 4)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f, coco: (f / "classes.txt").unlink(), InputError, "classes.txt .a class a line. is missing"),
        (lambda f, coco: (f / "classes.txt").write_text("cat\ncat\n"), VocabularyError, "cat"),
        (lambda f, coco: (f / "labels").rename(f / "masks"), InputError, "labels' does not exist; expected images/ "),
        (lambda f, coco: [p.unlink() for p in (*f.glob("*/*.jpg"), *f.glob("*/*.png"))], InputError, "holds no images"),
        (lambda f, coco: (coco(f), (f / "more.json").write_text('{"annotations": 1}')), InputError, "2 COCO files"),
        (lambda f, coco: (coco(f), (f / "annotations.json").write_text("{")), InputError, "is no COCO file"),
        (lambda f, coco: coco(f, categories=[{"name": "cat"}]), InputError, "key 'id' is missing"),
    ],
)
def test_what_is_no_data_set(own_data, write_coco, spoil, error, message):
    spoil(own_data, write_coco)
    with pytest.raises(error, match=message):
        read_folder(own_data)


def test_coco_problems(own_data, write_coco):
    write_coco(own_data, annotations=[{"image_id": 7, "category_id": 5, "segmentation": []}])
    assert "has category 5, which categories does not list" in read_folder(own_data).problems[0]
    write_coco(own_data)
    (own_data / "images/00.jpg").unlink()
    assert "is missing, 'annotations.json' lists it" in read_folder(own_data).problems[0]
    with pytest.raises(InputError, match="its JSON says 48x40"):
        segments(read_folder(own_data), size=(10, 10))


def test_catalogs_and_names(own_data, tmp_path, monkeypatch):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    name = str(own_data)
    dataset = register_dataset(name)
    assert DatasetCatalog.get(name) == dataset.records and set(dataset.records[0]) > {"file_name", "image_id"}
    metadata = MetadataCatalog.get(name)
    assert metadata.stuff_classes == ["glorp", "blix"] and metadata.ignore_label == 255
    (own_data / "classes.txt").write_text("a\nb\n")
    register_dataset(name)
    assert MetadataCatalog.get(name).stuff_classes == ["a", "b"]
    with pytest.raises(UnknownNameError, match="did you mean coco_stuff_val2017"):
        read_dataset("coco_stuf_val2017")
    with pytest.raises(InputError, match="does not exist"):
        read_dataset(str(tmp_path / "nothing"))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for kind in ("stuff", "panoptic"):
        with pytest.raises(InputError, match="is missing; `ovseg datasets prepare coco_"):
            read_dataset(f"coco_{kind}_train2017")
    with pytest.raises(InputError, match="no data set to train on"):
        load_datasets([])


@pytest.mark.parametrize(
    ("text", "ids"), [("0: glorp\n1: blix\n", "0, 1"), ("1 glorp\n2 blix\n", "1, 2"), ("glorp,7\nblix,3\n", "7, 3")]
)
def test_numbers_in_a_class_list_are_named(own_data, text, ids):
    (own_data / "classes.txt").write_text(text)
    report = check_dataset(read_folder(own_data))
    assert report.dataset.classes.names == ["glorp", "blix"] and report.images == 12
    (line,) = report.problems
    assert f"classes.txt' has numbers beside the names ({ids}), but values of labels count its classes" in line
    assert any("were read as ids" in note for note in report.notes)


def test_class_lists_are_read_by_the_reader_of_words(own_data):
    (own_data / "classes.txt").write_bytes(b"\xef\xbb\xbf# ours\r\nglorp\r\nblix\r\n")
    dataset = read_folder(own_data)
    assert dataset.classes.names == ["glorp", "blix"] and dataset.notes == ("comments were left out: '# ours'",)
    (own_data / "classes.txt").write_text("car;auto;automobile\nblix\n")
    with pytest.raises(VocabularyError, match="car;auto;automobile"):
        read_folder(own_data)
