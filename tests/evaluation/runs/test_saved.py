"""Saved predictions: files by the path of their image, classes by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.data.dataset import SEMANTIC, Dataset, identity_lookup
from ovseg.errors import InputError
from ovseg.evaluation.reports.finish import finish
from ovseg.evaluation.runs.image_log import read_log
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, Run, evaluate
from ovseg.evaluation.runs.saved import SavedSource
from ovseg.result.formats.labels import read_label_png
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

CLASSES = ("cat|kitten", "sofa", "wall")
NAMES = ("site0/0001.jpg", "site1/0001.jpg", "im0.jpg", "im0.png", "lone/a.png")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """Images in folders, with stems and names that others share; read in place of a data set of any name."""
    rng = np.random.default_rng(0)
    records = []
    for i, name in enumerate(NAMES):
        labels = rng.integers(0, 3, (4, 5)).astype(np.uint8).repeat(6, 0).repeat(6, 1)
        image, label = tmp_path / "data/images" / name, tmp_path / f"data/truth/{i}.png"
        for path, values in ((image, rng.integers(0, 255, (24, 30, 3), dtype=np.uint8)), (label, labels)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
        records.append({"file_name": str(image), "image_id": i, "sem_seg_file_name": str(label)})
    classes, remap = Vocabulary.parse(list(CLASSES)), np.arange(3, dtype=np.int32)
    root = str(tmp_path / "data/images")
    dataset = Dataset(
        "sites", classes, SEMANTIC, records, identity_lookup(3), remap, notes=("a part of it",), root=root
    )
    monkeypatch.setattr(Plan, "open_dataset", lambda self: dataset)
    return dataset


def run(folder: Path, predictions: Path | str = "", model: Path | str = "", **options: Any) -> Run:
    found = evaluate([Job(Plan("sites", str(model), predictions=str(predictions), **options), folder)])
    assert found is not None
    return found[0]


def truth(data: Dataset, index: int) -> np.ndarray:
    return np.asarray(Image.open(data.records[index]["sem_seg_file_name"])).astype(np.int32)


def save(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels.astype(np.uint8)).save(path)


def miou(found: Run) -> float:
    return float(finish([found])["metrics"]["semantic"]["miou_present"]["value"])


def test_own_output_gives_its_own_numbers(data: Dataset, tiny_clip: Path, tmp_path: Path) -> None:
    first = run(tmp_path / "model", model=tiny_clip, templates="none")
    labels = {
        path.relative_to(tmp_path / "model/labels").as_posix() for path in (tmp_path / "model/labels").rglob("*.png")
    }
    assert labels == {"site0/0001.png", "site1/0001.png", "im0.jpg.png", "im0.png.png", "lone/a.png"}
    again = run(tmp_path / "saved", tmp_path / "model/labels")
    assert [r.measured["semantic"] for r in again.log.ordered] == [r.measured["semantic"] for r in first.log.ordered]
    assert miou(again) == miou(first)
    assert finish([again])["notes"] == ["a part of it"]
    part = run(tmp_path / "part", tmp_path / "model/labels", limit=3)  # names do not hang on how many are evaluated
    assert [r.measured for r in part.log.ordered] == [r.measured for r in again.log.ordered[:3]]


def test_pictures_show_each_images_own_labels(data: Dataset, tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        save(tmp_path / f"saved/{name}.png", truth(data, i))
    found = run(tmp_path / "run", tmp_path / "saved")
    assert miou(found) == 1
    for i, record in enumerate(read_log(tmp_path / "run").ordered):
        assert record.name == NAMES[i]
        assert (read_label_png(tmp_path / "run/labels" / record.labels) == truth(data, i)).all()
    text = (tmp_path / "run/report.html").read_text()
    assert all(name in text for name in ("site0/0001.jpg", "site1/0001.jpg", "a part of it"))


def test_a_file_of_two_images_is_taken_for_none(data: Dataset, tmp_path: Path) -> None:
    """By whichever way it came to it; both images are named."""
    for file, one, other in (
        ("0001.png", "site0/0001.jpg", "site1/0001.jpg"),
        ("im0.labels.png", "im0.jpg", "im0.png"),
    ):
        folder = tmp_path / file
        save(folder / file, truth(data, 0))
        with pytest.raises(
            InputError, match=f"'{folder / file}' could be of '{one}' and of '{other}'; expected one for"
        ):
            run(tmp_path / f"run-{file}", folder)
        assert not (tmp_path / f"run-{file}/records").exists()


def test_a_flat_folder_is_taken_where_its_stems_are_alone_and_said(data: Dataset, tmp_path: Path) -> None:
    save(tmp_path / "saved/a.png", truth(data, 4))
    found = run(tmp_path / "run", tmp_path / "saved")
    assert [record.name for record in found.log.good] == ["lone/a.png"]
    assert finish([found])["notes"][1:] == [
        "1 predictions were found by the file name alone, without folders (lone/a.png)"
    ]
    assert "'" + str(tmp_path / "saved/site0/0001.labels.png") + "' is missing" in found.log.ordered[0].error


def test_classes_go_by_name_in_npz_and_in_lists_beside_pictures(data: Dataset, tmp_path: Path) -> None:
    """wall, kitten, sofa: the second goes by a synonym."""
    order, saved = np.array([1, 2, 0]), tmp_path / "saved"
    theirs = Vocabulary.parse(["wall", "kitten", "sofa"])
    image = np.zeros((24, 30, 3), np.uint8)
    for i in (0, 1):
        labels = order[truth(data, i)].astype(np.int32)
        (saved / NAMES[i]).parent.mkdir(parents=True)
        result = Segmentation(labels, np.ones(labels.shape, np.float32), theirs, image)
        if i == 0:
            result.save((saved / NAMES[i]).with_suffix(".npz"))
        else:
            save((saved / NAMES[i]).with_suffix(".labels.png"), labels)
            (saved / NAMES[i]).with_suffix(".json").write_text(json.dumps(result.to_json()))
    (saved / "classes.txt").write_text("wall\nkitten\nsofa\n")
    save(saved / "im0.jpg.png", order[truth(data, 2)])
    found = run(tmp_path / "run", saved, limit=3)
    assert miou(found) == 1
    assert any(
        line.startswith("3 of 3 predictions: prediction lists its classes in another order (wall, ...)")
        for line in finish([found])["notes"]
    )


@pytest.mark.parametrize("names", [["wall", "kitten", "bank"], ["wall", "kitten", "sofa", "sky"], ["wall", "cat"]])
def test_other_classes_are_refused_by_name(data: Dataset, tmp_path: Path, names: list[str]) -> None:
    save(tmp_path / "saved/lone/a.png", truth(data, 4) * 0)
    (tmp_path / "saved/classes.json").write_text(json.dumps(names))
    error = run(tmp_path / "run", tmp_path / "saved").log.ordered[4].error
    assert f"has {len(names)} other classes" in error and "expected the 3 of the evaluation (cat, ...)" in error


def test_rewritten_predictions_and_lists_are_noticed(data: Dataset, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    for i, name in enumerate(NAMES):
        save(saved / f"{name}.png", truth(data, i))
    assert miou(run(tmp_path / "run", saved)) == 1
    moved = Path(shutil.copytree(saved, tmp_path / "moved"))
    assert miou(run(tmp_path / "run", moved)) == 1  # the same elsewhere
    save(saved / "im0.jpg.png", 2 - truth(data, 2))
    with pytest.raises(InputError, match=r"something else: predictions: 1 changed \(im0.jpg\); start anew"):
        run(tmp_path / "run", saved)
    (moved / "classes.txt").write_text("sofa\ncat\nwall\n")
    with pytest.raises(InputError, match=r"classes of predictions: 5 changed"):
        run(tmp_path / "run", moved)


def test_a_prediction_that_was_missing_may_come(data: Dataset, tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"saved/{NAMES[i]}.png", truth(data, i))
    assert len(run(tmp_path / "run", tmp_path / "saved").log.good) == 4
    save(tmp_path / f"saved/{NAMES[4]}.png", truth(data, 4))
    found = run(tmp_path / "run", tmp_path / "saved")
    assert (len(found.log.good), found.before) == (5, 4)


def test_a_model_in_place_of_predictions_is_refused(data: Dataset, tiny_clip: Path, tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        save(tmp_path / f"saved/{name}.png", truth(data, i))
    run(tmp_path / "run", tmp_path / "saved")
    with pytest.raises(InputError, match="something else: weights_hash was"):
        run(tmp_path / "run", model=tiny_clip)


def test_names_that_look_like_those_of_others_are_kept_apart(tmp_path: Path) -> None:
    """`a.jpg.png` is the prediction of `a.jpg` beside `a.png`, and an image of its own in another data set."""
    for file in ("a.jpg.png", "a.png.png", "b.png"):
        save(tmp_path / file, np.zeros((2, 2)))
    source = SavedSource(tmp_path, Vocabulary.parse(["cat"]), ("a.jpg", "a.png", "b.tif"))
    source.check(("a.jpg", "a.png", "b.tif"))
    contents = source.contents(("a.jpg", "a.png", "b.tif"), None)
    assert [bool(one.image.hash) for one in contents.images.values()] == [True] * 3


def test_label_maps_with_ids_of_a_list_are_refused(data: Dataset, tmp_path: Path) -> None:
    words = Vocabulary.parse("7: cat, 3: sofa, 90: wall")
    for index, name in enumerate(NAMES):
        labels = truth(data, index)
        path = tmp_path / "saved" / f"{name}.labels.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = np.zeros((*labels.shape, 3), np.uint8)
        meta = {"image": name, "path": None, "notes": []}
        result = Segmentation.from_labels(labels, np.ones(labels.shape, np.float32), words, photo, meta)
        result.save(path, own_ids=True)
    found = finish([run(tmp_path / "run", tmp_path / "saved")])
    assert found["counts"]["evaluated"] == 0 and len(found["failed"]) == len(NAMES)
    assert all("holds the ids of a list" in one["error"] for one in found["failed"])
