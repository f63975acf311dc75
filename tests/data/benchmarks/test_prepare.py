"""Whatever the data set: what is missing, wrong counts, broken files, killed runs, checksums, the catalogs, status."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.data.benchmarks import BENCHMARKS, labels
from ovseg.data.registration import dataset_names, read_dataset, register_dataset
from tests.data.benchmarks.conftest import labels_of, save_image, save_labels, stripes

COMMAND = "`ovseg datasets prepare ade150_val --root"


@pytest.fixture
def ade(root, expect):
    """Three images of ADE20K-150 with labels."""
    expect("ade150", 3)
    folder = root / "ADEChallengeData2016"
    for i in range(3):
        save_image(folder / f"images/validation/{i}.jpg", seed=i)
        save_labels(folder / f"annotations/validation/{i}.png", stripes(0, 1, 150, 13 + i))
    return folder


@pytest.fixture
def no_network(monkeypatch):
    import urllib.request

    def refuse(*_args, **_options):
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_nothing_is_there(root, datasets, no_network):
    status, out, err = datasets("prepare", "ade150", "--check-only")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert f"'{root}/ADEChallengeData2016/images/validation' is missing; {COMMAND}" in err
    assert "downloads http://data.csail.mit.edu" in err and f"unpacks it in '{root}'" in err
    assert "cannot download" in datasets("prepare", "ade150")[2]
    assert "not prepared" not in datasets("check", "ade150_val")[2]


def test_only_the_user_may_fetch(root, datasets):
    status, _, err = datasets("prepare", "cityscapes")
    assert status == 2 and err.count("\n") == 1
    assert f"put leftImg8bit_trainvaltest.zip in '{root}/downloads'" in err
    assert "from https://www.cityscapes-dataset.com/downloads (only you may)" in err
    assert f"so that '{root}/cityscapes/leftImg8bit' exists" in err


def test_a_partial_tree(ade, datasets, no_network):
    shutil.rmtree(ade / "annotations")
    err = datasets("prepare", "ade150", "--check-only")[2]
    assert f"'{ade}/annotations/validation' is missing" in err and COMMAND in err


def test_the_wrong_root(tmp_path, datasets):
    err = datasets("prepare", "ade150", "--check-only", "--root", tmp_path / "nowhere")[2]
    assert "is the root right? set DETECTRON2_DATASETS, or give --root" in err


def test_files_without_partners_and_wrong_counts(ade, datasets):
    (ade / "images/validation/0.jpg").unlink()
    (ade / "annotations/validation/1.png").unlink()
    status, out, _ = datasets("prepare", "ade150")
    assert status == 1 and "ade150_val: 1 images" in out
    assert f"image '{ade}/images/validation/0.jpg' is missing" in out
    assert f"label '{ade}/annotations/validation/1.png' is missing" in out
    assert "has 1 images with labels" in out and "the benchmark has 3" in out
    assert datasets("prepare", "ade150", "--check-only")[0] == 1
    assert datasets("status")[0] == 1


def test_broken_files_are_named_and_the_rest_goes_on(ade, datasets):
    (ade / "images/validation/0.jpg").write_bytes(b"no picture")
    (ade / "annotations/validation/1.png").write_bytes(b"no picture")
    status, out, _ = datasets("prepare", "ade150")
    assert status == 1 and "ade150_val: 1 images" in out
    assert "images/validation/0.jpg" in out and "annotations/validation/1.png' cannot be read" in out
    assert out.count("problem: ") == 2
    assert [record["image_id"] for record in read_dataset("ade150_val").records] == ["2"]
    save_image(ade / "images/validation/0.jpg")
    save_labels(ade / "annotations/validation/1.png", stripes(1, 2, 3, 4))
    assert datasets("prepare", "ade150")[0] == 0 and len(read_dataset("ade150_val").records) == 3


def test_labels_that_do_not_fit(ade, datasets):
    save_labels(ade / "annotations/validation/0.png", stripes(0, 1, 151, 2))
    save_labels(ade / "annotations/validation/1.png", stripes(0, 1, 2, 3, size=(12, 20)))
    save_labels(ade / "annotations/validation/2.png", np.zeros((12, 16, 3), np.uint8))
    status, out, _ = datasets("prepare", "ade150")
    assert status == 1 and "holds the value 151 (48 pixels); expected one of the 152 values 0 to 255" in out
    assert "are 20x12 pixels, the image 16x12" in out and "has 3 channels" in out


def test_a_killed_conversion_goes_on(ade, root, datasets, monkeypatch):
    """The second run converts what is missing, and leaves what is there as it is."""
    write, written, lock = labels.write_labels, [], threading.Lock()

    def die(path, ids, count):
        with lock:
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(path)
            write(path, ids, count)

    monkeypatch.setattr(labels, "write_labels", die)
    assert datasets("prepare", "ade150")[0] == 130
    assert not json.loads((root / "ovseg/ade150_val/manifest.json").read_text())["complete"]
    assert "'ade150_val' is not prepared; run `ovseg datasets prepare" in datasets("check", "ade150_val")[2]
    state = {row["name"]: row["state"] for row in json.loads(datasets("status", "--json")[1])}
    assert state["ade150_val"] == "not prepared"
    before = {path: path.stat().st_mtime_ns for path in written}
    again = []
    monkeypatch.setattr(labels, "write_labels", lambda path, *rest: (again.append(path), write(path, *rest)))
    assert datasets("prepare", "ade150")[0] == 0
    assert len(written) == 2 and len(again) == 1
    assert {path: path.stat().st_mtime_ns for path in written} == before
    assert [labels_of(read_dataset("ade150_val"), i)[3] for i in range(3)] == [12, 13, 14]


def test_another_class_list_converts_anew(ade, root, datasets):
    assert datasets("prepare", "ade150")[0] == 0
    path = root / "ovseg/ade150_val/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocabulary": "other"}))
    save_labels(ade / "annotations/validation/0.png", stripes(1, 1, 1, 1))
    assert datasets("prepare", "ade150")[0] == 0 and labels_of(read_dataset("ade150_val")) == [0, 0, 0, 0]


def test_changes_after_the_checks_are_seen(ade, root, datasets):
    assert datasets("prepare", "ade150")[0] == 0
    made = root / "ovseg/ade150_val/labels/1.png"
    save_labels(made, stripes(1, 1, 1, 1))
    (ade / "images/validation/2.jpg").unlink()
    status, out, _ = datasets("prepare", "ade150", "--check-only")
    assert status == 1 and f"label '{made}' is not what it was" in out
    assert "images/validation/2.jpg' is missing" in out


def test_a_broken_manifest(ade, root, datasets):
    assert datasets("prepare", "ade150")[0] == 0
    (root / "ovseg/ade150_val/manifest.json").write_text("{")
    err = datasets("check", "ade150_val")[2]
    assert "manifest.json' is broken" in err and "delete it and run" in err


def test_check_only_changes_nothing(ade, root, datasets):
    status, out, _ = datasets("prepare", "ade150", "--check-only")
    assert status == 1 and "is there but not prepared; run" in out and not (root / "ovseg").exists()


def test_several_and_unknown_names(ade, datasets):
    status, out, err = datasets("prepare", "cityscapes", "ade150")
    assert status == 1 and err == "" and "problem: cityscapes_val" in out and "ade150_val: 3 images" in out
    assert "did you mean ade150" in datasets("prepare", "ade15")[2]
    assert "unknown data set" in datasets("check", "ade150_vall")[2]


def test_status(ade, datasets):
    datasets("prepare", "ade150")
    status, out, _ = datasets("status", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and rows["ade150_val"] == {"name": "ade150_val", "state": "ready", "images": 3, "line": ""}
    assert rows["voc21_val"]["state"] == "missing" and "VOCtrainval_11-May-2012.tar" in rows["voc21_val"]["line"]
    assert set(rows) == {f"{one.name}_{split}" for one in BENCHMARKS.values() for split in one.splits}
    shutil.rmtree(ade / "annotations")
    status, out, _ = datasets("status")
    assert status == 0 and "│ ade150_val" in out and "partial" in out
    assert "annotations/validation' is missing" in out and "VOCtrainval" not in out
    assert "VOCtrainval_11-May-2012.tar" in datasets("status", "voc20")[1]
    assert "unknown benchmark" in datasets("status", "voc")[2]


def test_show_and_check(ade, tmp_path, datasets):
    datasets("prepare", "ade150")
    assert datasets("show", "ade150_val", "--output", "x.png", "--count", "2")[0] == 0
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.width > 16
    assert "expected at least 1" in datasets("show", "ade150_val", "--output", "x.png", "--count", "0")[2]
    status, out, _ = datasets("check", "ade150_val", "--json")
    assert status == 0 and json.loads(out)["images"] == 3
    (ade / "images/validation/2.jpg").unlink()
    datasets("prepare", "ade150")
    status, out, _ = datasets("check", "ade150_val")
    assert status == 1 and "ade150_val has 2 images with labels" in out and "2.jpg' is missing" in out


def test_the_catalogs(ade, root, tmp_path, datasets):
    """A registered name is what Detectron2's own evaluator takes; perfect predictions score 100."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import SemSegEvaluator

    datasets("prepare", "ade150")
    register_dataset("ade150_val", root)
    records, metadata = DatasetCatalog.get("ade150_val"), MetadataCatalog.get("ade150_val")
    assert len(records) == 3 and metadata.evaluator_type == "sem_seg" and metadata.ignore_label == 255
    assert metadata.stuff_classes[:2] == ["wall", "building"]
    evaluator = SemSegEvaluator("ade150_val", distributed=False, output_dir=None)
    evaluator.reset()
    for record in records:
        ids = np.asarray(Image.open(record["sem_seg_file_name"])).astype(int)
        scores = (np.arange(150)[:, None, None] == ids).astype(np.float32)
        import torch

        evaluator.process([record], [{"sem_seg": torch.from_numpy(scores)}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)


def test_every_benchmark_states_what_one_has_to_know():
    for benchmark in BENCHMARKS.values():
        assert benchmark.rule and benchmark.licence and benchmark.paper and benchmark.folders
        assert all(split.count > 0 for split in benchmark.splits.values())
        assert all(bool(source.url) or source.page for source in benchmark.sources)
        assert not any(Path(path).is_absolute() for one in benchmark.sources for path in (one.into, *one.provides))
    assert len(set(dataset_names())) == len(dataset_names())
