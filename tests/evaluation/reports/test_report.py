"""What a finished run says: numbers with rules, warnings in words, one file that fetches nothing."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.evaluation.metrics.calibration import BINS, CalibrationEvaluator
from ovseg.evaluation.reports import page
from ovseg.evaluation.reports.charts import bars, curve, heat
from ovseg.evaluation.reports.finish import finish
from ovseg.evaluation.reports.report import HEAT_CLASSES, _worth_showing
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, evaluate
from ovseg.evaluation.runs.worker import fit, nearest
from ovseg.vocabulary import Vocabulary


def write_labelled(folder: Path, classes: list[str], maps: list[np.ndarray]) -> Path:
    """Write grey images with these labels, and the labels once more as predictions with a mistake each."""
    for name in ("images", "labels", "saved"):
        (folder / name).mkdir(parents=True)
    for i, labels in enumerate(maps):
        Image.fromarray(np.full((*labels.shape, 3), 128, np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(labels).save(folder / f"labels/{i}.png")
        guess = labels.astype(np.uint16)
        guess[: 2 + i] = 0
        guess[-1, -1] = 65535
        Image.fromarray(guess).save(folder / f"saved/{i}.png")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    return folder


def run(folder: Path, output: Path, **options: Any) -> dict[str, Any]:
    runs = evaluate([Job(Plan(str(folder), predictions=str(folder / "saved"), **options), output)])
    assert runs is not None
    return finish(runs)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    maps = [np.full((20, 30), i, np.uint8) for i in range(3)]
    for labels in maps:
        labels[10:] += 1
    return write_labelled(tmp_path / "data", ["cat", "sofa", "wall", "<b>lamp</b>", "moon"], maps)


def test_every_number_has_its_rule_and_all_that_made_it_is_there(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    runs = evaluate([Job(Plan(str(data), str(tiny_clip), background="threshold:0.2", limit=2), tmp_path / "run")])
    assert runs is not None
    finish(runs)
    result = json.loads((tmp_path / "run/result.json").read_text())
    for task, numbers in result["metrics"].items():
        assert numbers and all(entry["rule"] for entry in numbers.values()), task
    assert result["counting"]["semantic"].startswith("Rules: ground truth outside")
    model = runs[0].log.source
    assert len(result["model"]["weights_hash"]) == 16 and result["model"]["weights_hash"] == model["weights_hash"]
    assert result["vocabulary"]["hash"] == Vocabulary.parse(data / "classes.txt").hash
    assert (result["device"], result["precision"], result["seed"]) == ("cpu", "float32", 0)
    assert result["background"] == "threshold:0.2" and result["templates"]
    assert {"torch", "open_clip_torch", "ovseg", "detectron2"} <= result["versions"].keys()
    assert result["counts"] == {
        "images": 2, "evaluated": 2, "failed": 0, "classes_all": 5, "classes_present": 3,
    }  # fmt: skip
    assert result["timing"]["seconds_per_image"] > 0 and result["timing"]["peak_memory_mib"] > 50


def test_per_class_table(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", novel="wall", boundary=True)
    with (tmp_path / "run/per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["cat", "sofa", "wall", "<b>lamp</b>", "moon"]
    assert [row["split"] for row in rows] == ["base", "base", "novel", "base", "base"]
    assert [int(row["truth_pixels"]) for row in rows] == [300, 600, 600, 300, 0]
    # cat: image 0 all but nothing lost; images 1 and 2 give it their first rows, 3 and 4 of 30 pixels.
    assert float(rows[0]["iou"]) == pytest.approx(300 / (300 + 90 + 120), abs=1e-6)
    assert rows[4]["iou"] == "" and float(rows[0]["boundary_iou"]) <= 1


def test_report_is_one_file_that_fetches_nothing(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "run", novel="wall")
    text = (tmp_path / "run/report.html").read_text()
    assert not re.search(r"(?:https?:)?//[a-z]", text) and "<link" not in text and 'src="data:image/png' in text
    assert set(re.findall(r"<script([^>]*)>", text)) == {""} and "@import" not in text and "url(" not in text
    for part in (
        "Groups of classes",
        "Classes",
        "Confusions",
        "Best images",
        "Worst images",
        "All numbers",
        "sortable",
    ):
        assert part in text, part
    assert text.count("<svg") == 2  # groups and confusions; saved labels have no scores to calibrate
    assert "&lt;b&gt;lamp&lt;/b&gt;" in text and "<b>lamp" not in text
    assert "2.png" in text and "novel" in text


def test_warnings_in_words(tmp_path: Path, tiny_clip: Path) -> None:
    maps = [np.full((16, 16), value, np.uint8) for value in (0, 3, 5)]
    data = write_labelled(tmp_path / "data", [f"word {i}" for i in range(9)], maps)
    said = " | ".join(run(data, tmp_path / "a")["warnings"])
    assert "3 of 9 classes occur in the ground truth: mIoU is" in said and "over all" in said
    said = " | ".join(run(data, tmp_path / "b", vocabulary="word 0, word 3, dog")["notes"])
    assert "dropped 7 of 9 classes of the data (word 1, word 2, word 4, " in said
    assert "1 word (dog) has no labels" in said
    said = " | ".join(run(data, tmp_path / "c", rename=", ".join(f"word {i}=thing {i}" for i in range(9)))["notes"])
    assert "renamed 9 of 9 classes" in said
    runs = evaluate([Job(Plan(str(data), str(tiny_clip), background="threshold:0.9", distractors=2), tmp_path / "d")])
    assert runs is not None
    said = " | ".join(finish(runs)["warnings"])
    assert "'threshold:0.9' leaves pixels without a class, and this set has no class for background" in said
    assert "its own classes and 2 others" in said


def test_background_as_a_word_and_eight_bits(tmp_path: Path, tiny_clip: Path) -> None:
    data = write_labelled(tmp_path / "data", ["background", "cat"], [np.zeros((16, 16), np.uint8)])
    runs = evaluate([Job(Plan(str(data), str(tiny_clip), background="none"), tmp_path / "a")])
    assert runs is not None
    assert any("'background' is asked for as a word" in line for line in finish(runs)["warnings"])
    many = write_labelled(tmp_path / "many", [f"word {i}" for i in range(300)], [np.zeros((16, 16), np.uint8)])
    summary = run(many, tmp_path / "b")
    assert any("labels have 8 bits but the list has 300 classes" in line for line in summary["warnings"])
    assert summary["counts"]["evaluated"] == 0 and "save 16-bit PNG" in summary["failed"][0]["error"]
    assert (tmp_path / "b/report.html").is_file()


def test_calibration_counts() -> None:
    """Scores 0.1 all wrong, 0.9 all right: the error is 0.1; void and no class are left out."""
    evaluator = CalibrationEvaluator(2)
    truth = np.array([[0, 0, 1, 1, -1, 0]])
    labels = np.array([[1, 1, 1, 1, 1, -1]])
    scores = np.array([[0.1, 0.1, 0.9, 0.9, 0.5, 0.5]], np.float32)
    for _ in range(2):
        evaluator.count(evaluator.measure(truth, labels, scores))
    found = evaluator.evaluate()
    assert found.pixels.sum() == 8 and found.pixels[BINS // 10] == 4 and found.pixels[13] == 4
    assert found.accuracy[1] == 0 and found.accuracy[13] == 1
    assert found.confidence[[1, 13]] == pytest.approx([0.1, 0.9], abs=1e-6)
    assert found.expected_calibration_error == pytest.approx(0.1, abs=1e-6)


def test_heat_map_keeps_the_largest_confusions() -> None:
    count = 60
    confusion = np.zeros((count, count + 1), np.int64)
    np.fill_diagonal(confusion, 100)
    confusion[7, 50], confusion[9, count] = 500, 300
    rows, columns = _worth_showing(confusion)
    assert len(rows) == HEAT_CLASSES and {7, 9} <= set(rows) and {50, count} <= set(columns)
    small = np.array([[5, 0, 1], [0, 0, 0]])
    assert [part.tolist() for part in _worth_showing(small)] == [[0], [0, 2]]


def test_charts_and_tables_say_their_numbers() -> None:
    drawn = heat(np.array([[0.5, 0.5]]), ["a & b"], ["a & b", "c"])
    assert "a &amp; b taken for c: 50.0 %" in drawn and "a &amp; b found: 50.0 %" in drawn
    assert "x: 25.00" in bars([("x", 0.25, "25 (2)")]) and "<path" in bars([("x", 0.25, "")], [(0.2, 0.3)])
    assert curve([]) == "" and "score 90.0 %: 80.0 % of 5 pixels are right" in curve([(0.9, 0.8, 5)])
    table = page.table(["name", "iou"], [["<i>", 0.5], ["b", None]], "here", [1])
    assert "&lt;i&gt;" in table and 'data-v="0.5"' in table and ">50.0<" in table and 'data-v=""' in table


def test_nearest_takes_the_middle_of_each_pixel() -> None:
    values = np.arange(4).reshape(2, 2)
    assert nearest(values, (4, 4)).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    assert nearest(nearest(values, (6, 6)), (2, 2)).tolist() == values.tolist()
    assert nearest(values, (2, 2)) is values and fit.__doc__


def test_nothing_is_labelled(tmp_path: Path) -> None:
    """A few files are looked at before; where these are void and all others, too, there is a report without numbers."""
    data = write_labelled(tmp_path / "data", ["cat", "dog"], [np.full((2, 5), 255, np.uint8)] * 20)
    summary = run(data, tmp_path / "run")
    assert summary["counts"]["evaluated"] == 20 and summary["metrics"]["semantic"]["miou_present"]["value"] is None
    assert (tmp_path / "run/report.html").is_file()


def test_what_reading_got_around_is_in_the_result(tiny_clip: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("images", "panoptic"):
        (data / name).mkdir(parents=True)
    infos = [{"id": 5, "category_id": 1}, {"id": 6, "category_id": 1}, {"id": 7, "category_id": 9}]
    ids = np.zeros((20, 30, 3), np.uint8)
    ids[5:, :, 0], ids[15:, :, 0] = 5, 7
    for name in ("images", "panoptic"):
        Image.fromarray(ids).save(data / name / "a.png")
    content = {
        "images": [{"id": 0, "file_name": "a.png"}],
        "annotations": [{"image_id": 0, "file_name": "a.png", "segments_info": infos}],
        "categories": [{"id": 1, "name": "cat", "isthing": 1}],
    }
    (data / "panoptic.json").write_text(json.dumps(content))
    runs = evaluate([Job(Plan(str(data), str(tiny_clip)), tmp_path / "run")])
    assert runs is not None
    finish(runs)
    warnings = json.loads((tmp_path / "run/result.json").read_text())["warnings"]
    assert [line for line in warnings if "segment 7 of 'a.png' is left out: it has category 9" in line]
    assert [line for line in warnings if "has no pixel of segment 6, which its JSON lists" in line]
