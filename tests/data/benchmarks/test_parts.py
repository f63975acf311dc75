"""Parts of benchmarks that are parts on purpose, and labels that were converted from what is no more."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.data.benchmarks import BENCHMARKS
from ovseg.data.benchmarks.coco import PUBLISHED
from ovseg.data.registration import load_datasets, read_dataset
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stripes

NOTE = "2 of 5 images of voc21_val: numbers on them are not the benchmark's"
SUBSET = "take what is there as a subset: `ovseg datasets prepare voc21_val --root"


@pytest.fixture
def voc(root, expect):
    """Two of five images of PASCAL VOC's list, of which one has a photograph without a label and one the reverse."""
    expect("voc21", 5)
    folder = root / "VOCdevkit/VOC2012"
    for name in "abc":
        save_image(folder / f"JPEGImages/{name}.jpg")
    for name in "abd":
        save_labels(folder / f"SegmentationClass/{name}.png", stripes(0, 1, 20, 255))
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/val.txt").write_text("a\nb\nc\nd\ne\n")
    return folder


def test_a_part_is_refused_and_the_refusal_names_the_flag(voc, root, datasets, tmp_path, capsys):
    status, out, _ = datasets("prepare", "voc21")
    assert status == 1 and "voc21_val has 2 images with labels" in out and "the benchmark has 5; unpack its" in out
    assert SUBSET in out and f"--root {root} --subset`" in out and "JPEGImages/d.jpg' is missing" in out
    with pytest.raises(InputError, match=r"the benchmark has 5; .* --subset`"):
        read_dataset("voc21_val")
    with pytest.raises(InputError, match=r"the benchmark has 5; .* --subset`"):
        load_datasets(["voc21_val"])
    assert main(["eval", "--model", "mini", "--dataset", "voc21_val", "--output", str(tmp_path / "run")]) == 2
    assert SUBSET in capsys.readouterr().err
    assert datasets("status", "voc21")[0] == 1 and datasets("show", "voc21_val", "--output", "x.png")[0] == 0
    status, out, _ = datasets("check", "voc21_val")
    assert status == 1 and out.count("the benchmark has 5") == 1


def test_a_part_on_purpose(voc, root, datasets):
    status, out, err = datasets("prepare", "voc21", "--subset")
    assert (status, err) == (0, "") and "voc21_val: 2 images" in out and f"note: {NOTE}\n" in out
    assert "problem" not in out
    dataset = read_dataset("voc21_val")
    assert dataset.notes == (NOTE,) and [record["image_id"] for record in dataset.records] == ["a", "b"]
    assert load_datasets(["voc21_val"])[0].notes == (NOTE,)
    manifest = json.loads((root / "ovseg/voc21_val/manifest.json").read_text())
    assert manifest["subset"] is True and manifest["images"] == 2 and manifest["problems"] == []
    rows = json.loads(datasets("status", "voc21", "--json")[1])
    assert [(row["state"], row["images"]) for row in rows] == [("subset", 2)]
    assert datasets("check", "voc21_val")[0] == 0 and datasets("prepare", "voc21", "--check-only")[0] == 0
    (voc / "JPEGImages/a.jpg").write_bytes(b"no picture")
    status, out, _ = datasets("prepare", "voc21", "--subset")
    assert status == 1 and out.count("problem: ") == 1 and "a.jpg' " in out
    lost = "1 images of voc21_val are broken and left out: `ovseg datasets check voc21_val` names them"
    assert read_dataset("voc21_val").notes == (NOTE, lost)


def test_after_a_part_comes_the_whole(voc, root, datasets):
    datasets("prepare", "voc21", "--subset")
    assert datasets("prepare", "voc21")[0] == 1
    with pytest.raises(InputError, match="--subset`"):
        read_dataset("voc21_val")
    for name in "abcde":
        save_image(voc / f"JPEGImages/{name}.jpg")
        save_labels(voc / f"SegmentationClass/{name}.png", stripes(0, 1, 20, 255))
    assert datasets("prepare", "voc21", "--subset")[0] == 0  # whole: no part, whatever the flag says
    assert not json.loads((root / "ovseg/voc21_val/manifest.json").read_text())["subset"]
    status, out, _ = datasets("prepare", "voc21")
    assert status == 0 and "5 images" in out and "note" not in out and read_dataset("voc21_val").notes == ()


def test_nothing_is_no_part(voc, datasets):
    shutil.rmtree(voc / "JPEGImages")
    save_image(voc / "JPEGImages/e.jpg")
    status, _, err = datasets("prepare", "voc21", "--subset")
    assert status == 2 and "voc21_val: no image in" in err


def test_more_than_the_benchmark_has_is_said(voc, expect, datasets):
    expect("voc21", 1)
    status, out, _ = datasets("prepare", "voc21", "--subset")
    assert status == 1 and "the benchmark has 1; its numbers will not be comparable: is it the same release?" in out
    assert read_dataset("voc21_val").notes == ("2 of 1 images of voc21_val: numbers on them are not the benchmark's",)


@pytest.fixture
def panoptic(root, expect):
    """Two of COCO's images with panoptic pictures; the JSON file lists a third, and a fourth without its picture."""
    expect("coco_panoptic", 4)
    names = {new[0]: old for old, new in PUBLISHED.items()}
    published = [
        {"id": i + 1, "name": names.get(entry.name, entry.name), "isthing": int(entry.is_thing)}
        for i, entry in enumerate(Vocabulary.parse("coco133"))
    ]
    images, annotations = [], []
    for i in range(4):
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 12, "width": 16})
        segments = [{"id": 1, "category_id": 1}, {"id": 300, "category_id": 133}]
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        if i != 2:
            save_image(root / f"coco/val2017/{i}.jpg")
        if i != 3:
            ids = stripes(0, 1, 300, 300, dtype=np.int32)
            path = root / f"coco/panoptic_val2017/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.stack([ids % 256, ids // 256, ids * 0], -1).astype(np.uint8)).save(path)
    path = root / "coco/annotations/panoptic_val2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": published}))
    return path


def test_a_part_of_what_is_listed_in_json(panoptic, root, datasets):
    status, out, _ = datasets("prepare", "coco_panoptic")
    assert status == 1 and "has 2 images with labels" in out and "the benchmark has 4" in out
    with pytest.raises(InputError, match="--subset`"):
        read_dataset("coco_panoptic_val2017")
    status, out, err = datasets("prepare", "coco_panoptic", "--subset")
    assert (status, err) == (0, "") and "problem" not in out
    dataset = read_dataset("coco_panoptic_val2017")
    assert "2 of 4 images of coco_panoptic_val2017: numbers on them are not the benchmark's" in dataset.notes
    assert [record["image_id"] for record in dataset.records] == [0, 1] and not dataset.problems
    assert labels_of(dataset) == [-1, 0, 132, 132]
    (root / "ovseg/coco_panoptic_val2017/manifest.json").unlink()
    with pytest.raises(InputError, match="--subset`"):
        read_dataset("coco_panoptic_val2017")


@pytest.mark.parametrize("dated", ["now", "back"])
def test_a_changed_label_is_refused_and_converted_again(voc, datasets, dated):
    """Fifty labels, so that not all of them are looked at in any case."""
    names = [f"{i:02}" for i in range(50)]
    for name in names:
        save_image(voc / f"JPEGImages/{name}.jpg")
        save_labels(voc / f"SegmentationClass/{name}.png", stripes(0, 1, 20, 255))
    (voc / "ImageSets/Segmentation/val.txt").write_text("\n".join(names))
    assert datasets("prepare", "voc21", "--subset")[0] == 1  # more than expected
    assert labels_of(read_dataset("voc21_val"), 33) == [0, 1, 20, -1]
    source = voc / "SegmentationClass/33.png"
    before = source.stat()
    save_labels(source, stripes(5, 5, 5, 5))
    if dated == "back":  # as unpacking does
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"labels/33.png' is not what would be made of the published one now; run "):
        read_dataset("voc21_val")
    status, out, _ = datasets("prepare", "voc21", "--check-only")
    assert status == 1 and "labels/33.png' is not what would be made" in out
    datasets("prepare", "voc21")
    assert labels_of(read_dataset("voc21_val"), 33) == [5, 5, 5, 5]
    source.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"labels/33.png' was made of one that is broken now"):
        read_dataset("voc21_val")


def test_a_touched_label_is_looked_at_once(voc, root, datasets):
    datasets("prepare", "voc21", "--subset")
    made = root / "ovseg/voc21_val/labels/a.png"
    os.utime(made, ns=(0, 0))
    content = made.read_bytes()
    (voc / "SegmentationClass/a.png").touch()
    assert labels_of(read_dataset("voc21_val")) == [0, 1, 20, -1]
    assert datasets("prepare", "voc21", "--subset")[0] == 0
    assert made.read_bytes() == content and made.stat().st_mtime_ns > 0


def test_a_changed_rule_is_refused_and_converts_again(voc, root, datasets, monkeypatch):
    import dataclasses

    from ovseg.data.benchmarks.labels import by_value, table_of

    datasets("prepare", "voc21", "--subset")
    benchmark = BENCHMARKS["voc21"]
    split = benchmark.splits["val"]
    other = by_value(table_of({255: -1, **{i: 20 - i for i in range(21)}}))
    layouts = (dataclasses.replace(split.layouts[0], rule=other), *split.layouts[1:])
    splits = {**benchmark.splits, "val": dataclasses.replace(split, layouts=layouts)}
    monkeypatch.setitem(BENCHMARKS, "voc21", dataclasses.replace(benchmark, splits=splits))
    with pytest.raises(InputError, match="is not what would be made of the published one now; run `ovseg datasets"):
        read_dataset("voc21_val")
    assert datasets("prepare", "voc21", "--subset")[0] == 0
    assert labels_of(read_dataset("voc21_val")) == [20, 19, 0, -1]
    monkeypatch.setitem(BENCHMARKS, "voc21", dataclasses.replace(BENCHMARKS["voc21"], rule="said otherwise"))
    with pytest.raises(InputError, match="was prepared by another list of classes or rule; run"):
        read_dataset("voc21_val")
