"""The class that stands for anything else: pixels without a class are that class, and its name is not asked."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.data.benchmarks import BENCHMARKS
from ovseg.data.own_data import read_folder
from ovseg.errors import InputError
from ovseg.evaluation.metrics.segments import from_panoptic
from ovseg.evaluation.reports.finish import finish
from ovseg.evaluation.robustness import Distractors
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, evaluate
from ovseg.result.formats.labels import read_label_png
from ovseg.result.objects import Panoptic, PanopticSegment
from ovseg.vocabulary import Vocabulary

IMAGES = 2
OBJECTS = ("cat", "sofa", "lamp")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of background, cat and a void corner; background is the second class."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for i in range(IMAGES):
        labels = np.full((40, 48), 1, np.uint8)
        labels[5 : 25 + i, 4:30] = 0
        labels[:4, :4] = 255
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(tmp_path / f"data/images/{i}.png")
        Image.fromarray(labels).save(tmp_path / f"data/labels/{i}.png")
    (tmp_path / "data/classes.txt").write_text("cat\nbackground\nsofa\nlamp\n")
    return tmp_path / "data"


def result_of(plan: Plan, folder: Path, processes: int = 1) -> dict[str, Any]:
    runs = evaluate([Job(plan, folder)], processes)
    assert runs is not None
    return finish(runs)


def expected(data: Path, model: Path, policy: str, i: int) -> np.ndarray:
    """Label by the objects alone, and let what has no class be the background, as papers do."""
    found = ovseg.load(str(model), device="cpu")(data / f"images/{i}.png", list(OBJECTS), background=policy).labels
    return np.array([0, 2, 3, 1])[found]


@pytest.mark.parametrize("policy", ["threshold:0.4", "words", "sky, wall, tree"])
def test_pixels_without_a_class_are_the_background(data: Path, tiny_clip: Path, tmp_path: Path, policy: str) -> None:
    found = result_of(Plan(str(data), str(tiny_clip), background=policy), tmp_path / "run")
    hits, truth, guessed = np.zeros(4), np.zeros(4), np.zeros(4)
    for i in range(IMAGES):
        own, target = expected(data, tiny_clip, policy, i), np.asarray(Image.open(data / f"labels/{i}.png"))
        np.testing.assert_array_equal(read_label_png(tmp_path / f"run/labels/{i}.png"), own)
        for place in range(4):
            hits[place] += ((own == place) & (target == place)).sum()
            truth[place] += (target == place).sum()
            guessed[place] += ((own == place) & (target < 4)).sum()
    assert guessed[1] and guessed[0] + guessed[2] + guessed[3]  # both kinds of pixels are there
    with (tmp_path / "run/per_class.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert [int(rows[name]["predicted_pixels"]) for name in ("cat", "background", "sofa", "lamp")] == list(guessed)
    assert float(rows["background"]["iou"]) == pytest.approx(hits[1] / (truth[1] + guessed[1] - hits[1]), abs=1e-6)
    assert found["metrics"]["semantic"]["no_class_share"]["value"] == 0
    assert found["no_class_as"] == "background"
    said = " | ".join([*found["notes"], *found["warnings"]])
    assert said.count("without a class") == 1 and "count as 'background', which is not asked by its name" in said


def test_none_asks_the_name_like_any_word(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    found = result_of(Plan(str(data), str(tiny_clip), background="none"), tmp_path / "run")
    model, classes = ovseg.load(str(tiny_clip), device="cpu"), data / "classes.txt"
    own = model(data / "images/0.png", classes, background="none").labels
    np.testing.assert_array_equal(read_label_png(tmp_path / "run/labels/0.png"), own)
    assert found["no_class_as"] is None and not any("count as" in line for line in found["notes"])
    assert any("'background' is asked for as a word like any other" in line for line in found["warnings"])


def test_the_threshold_of_a_config_counts_too(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"MODEL": {"PROTOCOL": {"PROB_THRESHOLD": 0.4}}}
    plan = Plan(str(data), str(tiny_clip), overrides=changes)
    found = result_of(plan, tmp_path / "run")
    np.testing.assert_array_equal(
        read_label_png(tmp_path / "run/labels/0.png"), expected(data, tiny_clip, "threshold:0.4", 0)
    )
    assert any("the threshold of the model leaves without a class" in line for line in found["notes"])
    # A threshold that gives a class by its place needs the words in their places: the name is asked.
    changes["MODEL"]["PROTOCOL"]["THRESHOLD_LABEL"] = 1
    found = result_of(dataclasses.replace(plan, overrides=changes, background="sky, wall"), tmp_path / "b")
    assert any("which is asked by its name, too" in line for line in found["notes"])
    assert found["metrics"]["semantic"]["no_class_share"]["value"] == 0
    assert result_of(dataclasses.replace(plan, overrides=changes), tmp_path / "c")["no_class_as"] is None


def test_distractors_and_added_names_stay_wrong(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    words = Vocabulary.parse(["background", "moon", "tree", "river", "cloud"])
    condition = Distractors(severity=4, source=words)
    plan = Plan(str(data), str(tiny_clip), background="sky, wall", condition=condition)
    found = result_of(plan, tmp_path / "open")  # 'background' is no name to add: four others are
    asked = [*OBJECTS, "moon", "tree", "river", "cloud"]
    own = ovseg.load(str(tiny_clip), device="cpu")(data / "images/0.png", asked, background="sky, wall").labels
    places = np.array([0, 2, 3, -1, -1, -1, -1, 1])
    np.testing.assert_array_equal(read_label_png(tmp_path / "open/labels/0.png"), places[own])
    assert found["metrics"]["semantic"]["no_class_share"]["value"] > 0
    plan = Plan(str(data), str(tiny_clip), background="sky, wall", distractors=2)
    assert set(plan.class_ids(0, np.array([0, 1]), 4, 1)) == {0, 1, 2, 3}  # two others beside it
    result_of(plan, tmp_path / "few")
    own = expected(data, tiny_clip, "sky, wall", 0)
    np.testing.assert_array_equal(read_label_png(tmp_path / "few/labels/0.png"), own)


def test_an_image_of_nothing_but_background(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 48), 1, np.uint8)).save(data / "labels/0.png")
    plan = Plan(str(data), str(tiny_clip), background="sky, wall", distractors=0)
    result_of(plan, tmp_path / "run")
    assert (read_label_png(tmp_path / "run/labels/0.png") == 1).all()


@pytest.mark.slow
def test_processes_agree(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    plan = Plan(str(data), str(tiny_clip), background="threshold:0.4")
    one, two = result_of(plan, tmp_path / "1"), result_of(plan, tmp_path / "2", processes=2)
    assert one["metrics"] == two["metrics"] and one["notes"] == two["notes"]


def test_saved_labels_agree_and_scores_that_are_none_are_left_out(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    one = result_of(Plan(str(data), str(tiny_clip), background="threshold:0.4"), tmp_path / "1")
    again = result_of(Plan(str(data), predictions=str(tmp_path / "1/labels")), tmp_path / "3")
    assert again["metrics"]["semantic"] == one["metrics"]["semantic"]
    assert 0 <= one["metrics"]["calibration"]["expected_calibration_error"]["value"] <= 1


@pytest.mark.parametrize("suffix", ["npz", "png"])
def test_predictions_that_do_not_list_the_background(data: Path, tiny_clip: Path, tmp_path: Path, suffix: str) -> None:
    format_ = ["--format", "npz"] if suffix == "npz" else ["--format", "labels,report"]
    arguments = [str(data / "images"), "--classes", ", ".join(OBJECTS), "--background", "threshold:0.4"]
    model = ["--model", str(tiny_clip), "--device", "cpu", "--output", str(tmp_path / "saved")]
    assert main(["segment", *arguments, *model, *format_]) == 0
    found = result_of(Plan(str(data), predictions=str(tmp_path / "saved")), tmp_path / "a")
    same = result_of(Plan(str(data), str(tiny_clip), background="threshold:0.4"), tmp_path / "b")
    assert found["metrics"]["semantic"] == same["metrics"]["semantic"]
    assert any("2 of 2 predictions: prediction lists no class 'background'" in line for line in found["notes"])
    assert found["no_class_as"] == "background, where a prediction does not list it"


def test_a_run_made_otherwise_is_refused(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    plan = Plan(str(data), str(tiny_clip), background="sky, wall")
    result_of(plan, tmp_path / "run")
    kept = json.loads((tmp_path / "run/run.json").read_text())
    assert kept["identity"].pop("no_class_as") == "background"
    (tmp_path / "run/run.json").write_text(json.dumps(kept))
    with pytest.raises(InputError, match="no_class_as was null, is background"):
        evaluate([Job(plan, tmp_path / "run")])


def test_segments_of_no_class() -> None:
    ids = np.array([[0, 1, 2], [0, 3, 3]], np.int32)
    found = Panoptic(ids, tuple(PanopticSegment(i + 1, i, True, 0.9) for i in range(3)))
    kept = from_panoptic(found, np.array([5, -1, 7]), 4)
    np.testing.assert_array_equal(kept.semantic(), [[4, 5, -1], [4, 7, 7]])
    merged = from_panoptic(found, np.array([5, -1, 4]), 4)
    np.testing.assert_array_equal(merged.semantic(), [[4, 5, -1], [4, 4, 4]])
    assert sorted(merged.classes) == [4, 5]
    assert (from_panoptic(found, np.array([5, -1, 7])).semantic()[:, 0] == -1).all()


def test_which_class_stands_for_anything_else(data: Path) -> None:
    own = read_folder(data)
    assert own.rest_class == 1 and own.renamed({"background": ("wall",)}).rest_class == -1
    moved = dataclasses.replace(own, rest=1)
    assert moved.renamed({"background": ("wall",)}).rest_class == 1
    assert moved.with_classes(Vocabulary.parse("sofa, background, cat")).rest_class == 1
    assert moved.with_classes(Vocabulary.parse("sofa, cat")).rest_class == -1
    assert dataclasses.replace(own, rest=-1).rest_class == -1
    (data / "classes.txt").write_text("cat\nbackground\nvoid\nlamp\n")
    assert read_folder(data).rest_class == -1  # which of the two is not known


def test_benchmarks_say_which_class_it_is() -> None:
    names = {}
    for name, benchmark in BENCHMARKS.items():
        classes = benchmark.classes
        if benchmark.background >= 0 and not callable(classes):
            names[name] = Vocabulary.parse(classes)[benchmark.background].name
    assert names["voc21"] == names["pc60"] == names["coco_object"] == names["dram"] == "background"
    assert names["isprs_potsdam"] in ("others", "other") and names["isaid"] == "others"
    assert not {"voc20", "pc59", "ade150", "cityscapes", "bdd100k", "atlantis", "worldfloods"} & names.keys()
