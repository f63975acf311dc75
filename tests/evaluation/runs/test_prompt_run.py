"""`ovseg eval` on data sets whose images bring their own words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.data.dataset import draw_outline
from ovseg.data.images import read_image
from ovseg.data.registration import read_dataset
from ovseg.evaluation.metrics.prompts import PromptEvaluator, ReferringEvaluator
from ovseg.evaluation.robustness import Condition
from ovseg.evaluation.runs.prompt_source import PromptSource
from ovseg.vocabulary import Vocabulary


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """PhraseCut's debugging split with three images, and prompts that overlap."""
    folder = tmp_path / "sets/VGPhraseCut_v0"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    sizes, tasks = [], []
    for i in range(1, 4):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"images/{i}.jpg")
        sizes.append({"image_id": i, "height": 40, "width": 48})
        boxes = {"cat": (2, 20), "cat or sofa": (0, 40)} if i < 3 else {"cat": (5, 9)}
        for phrase, (low, high) in boxes.items():
            corners = [[low, low], [high, low], [high, high - 4], [low, high - 4]]
            tasks.append({"image_id": i, "phrase": phrase, "Polygons": [[corners]]})
    (folder / "image_data_split3000.json").write_text(json.dumps(sizes))
    (folder / "refer_miniv.json").write_text(json.dumps(tasks))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "sets"))
    assert main(["datasets", "prepare", "phrasecut_miniv", "--subset"]) == 0
    capsys.readouterr()
    return tmp_path


ARGUMENTS = ["eval", "--dataset", "phrasecut_miniv", "--model", "mini"]


def value(folder: Path, task: str, name: str) -> float:
    return json.loads((folder / "result.json").read_text())["metrics"][task][name]["value"]


def test_prompts_are_asked_for_one_by_one(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The numbers are those of the evaluators fed by hand with the model's probabilities."""
    assert main([*ARGUMENTS, "--output", str(root / "run")]) == 0
    out = capsys.readouterr().out
    assert "mIoU of prompts" in out and "FgIoU" in out and "oIoU" in out and "3 of 3 images evaluated" in out
    prompts, referring = PromptEvaluator(), ReferringEvaluator()
    segmenter, dataset = ovseg.load("mini"), read_dataset("phrasecut_miniv")
    for record in dataset.records:
        for annotation in record["annotations"]:
            name = dataset.classes[annotation["category_id"]].name
            scores = segmenter(record["file_name"], [name], "words", want="class_scores").class_scores[0].clip(0, 1)
            mask = draw_outline(record, annotation, scores.shape)
            prompts.add(mask, scores)
            referring.add(mask, scores >= 0.5)
    for task, result in (("prompt", prompts.evaluate()), ("referring", referring.evaluate())):
        for name, number in result.to_json().items():
            assert value(root / "run", task, name) == number, name
    assert prompts.evaluate().prompts == 5
    page = (root / "run/report.html").read_text()
    assert "Best images" in page and "mIoU of prompts" in page


def test_a_run_that_was_cut_off_goes_on_to_the_same(root: Path) -> None:
    folder = root / "run"
    assert main([*ARGUMENTS, "--output", str(folder)]) == 0
    before = (folder / "result.json").read_text()
    lines = (folder / "images.jsonl").read_text().splitlines(keepends=True)
    (folder / "images.jsonl").write_text("".join(lines[:2]))  # what made them, and one image
    (folder / "labels/3.png").unlink()
    assert main([*ARGUMENTS, "--output", str(folder)]) == 0
    metrics = [json.loads(text)["metrics"] for text in (before, (folder / "result.json").read_text())]
    assert metrics[0] == metrics[1] and (folder / "labels/3.png").is_file()
    assert json.loads(before)["background"].startswith("words")


def test_other_words_for_a_data_set_below_a_folder_that_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DETECTRON2_DATASETS")
    run = [*ARGUMENTS, "--root", str(root / "sets"), "--output", str(root / "run")]
    assert main([*run, "--rename", "cat=kitten, cat or sofa=a kitten or a sofa"]) == 0
    assert "renamed 2 of 2 classes" in "".join(json.loads((root / "run/result.json").read_text())["notes"])


def test_conditions_and_other_words(root: Path) -> None:
    run = [*ARGUMENTS, "--output", str(root / "run"), "--background", "sky, wall", "--typos", "1"]
    assert main([*run, "--typographic", "3", "--tasks", "referring"]) == 0
    found = json.loads((root / "run/result.json").read_text())
    assert "prompt" not in found["metrics"] and found["conditions"] == ["typos-1", "typographic-3"]
    assert found["robustness"]["families"]["names"]["mean"]["overall_iou"] is not None
    assert "P@0.5" in (root / "run/report.html").read_text()
    names = ["--rename", "cat=kitten, cat or sofa=a kitten or a sofa"]
    assert main([*ARGUMENTS, "--output", str(root / "words"), *names]) == 0
    assert "renamed 2 of 2 classes" in "".join(json.loads((root / "words/result.json").read_text())["notes"])


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--background", "none"], "leaves a prompt without rivals"),
        (["--background", "threshold:0.4"], "leaves a prompt without rivals"),
        (["--distractors", "3"], "asks for each image's own words"),
        (["--boundary"], "--boundary and --novel measure classes, so leave them out"),
        (["--novel", "cat"], "--boundary and --novel measure classes, so leave them out"),
        (["--tasks", "semantic"], "expected --tasks prompt,referring"),
    ],
)
def test_what_prompts_cannot_do(root: Path, more: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ARGUMENTS, "--output", str(root / "run"), *more]) == 2
    assert line in capsys.readouterr().err


def test_predictions_hold_no_answers_to_prompts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [one for one in ARGUMENTS if one not in ("--model", "mini")]
    assert main([*arguments, "--output", str(root / "run"), "--predictions", "."]) == 2
    assert "asks for each image's own words" in capsys.readouterr().err


def test_a_broken_image_is_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "sets/VGPhraseCut_v0/images/2.jpg").write_bytes(b"no picture")
    assert main([*ARGUMENTS, "--output", str(root / "run")]) == 1
    assert "2 of 3 images evaluated" in capsys.readouterr().out and value(root / "run", "prompt", "prompts") == 3


def test_runs_on_prompts_are_compared(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(root / name) for name in ("one", "two")]
    assert main([*ARGUMENTS, "--output", folders[0]]) == 0
    assert main([*ARGUMENTS, "--output", folders[1], "--background", "sky, wall"]) == 0
    assert main(["compare", *folders, "--output", str(root / "cmp")]) == 0
    found = json.loads((root / "cmp/compare.json").read_text())
    for folder, model in zip(folders, found["models"], strict=True):
        for name in ("mean_iou", "overall_iou"):
            assert model["numbers"][name]["value"] == pytest.approx(value(Path(folder), "referring", name), abs=1e-6)
            assert model["numbers"][name]["low"] <= model["numbers"][name]["high"]
    assert "mIoU of prompts" in (root / "cmp/compare.html").read_text()
    assert any("background policies" in note for note in found["notes"])
    for folder in folders:
        assert main([*ARGUMENTS, "--output", f"{folder}-prompt", "--tasks", "prompt"]) == 0
    capsys.readouterr()
    assert main(["compare", *(f"{folder}-prompt" for folder in folders), "--output", str(root / "none")]) == 2
    assert "has no number that gets an interval" in capsys.readouterr().err


def test_an_image_is_encoded_once_for_all_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, seen = ovseg.load("mini", device="cpu"), []
    see = segmenter.model.see
    monkeypatch.setattr(segmenter.model, "see", lambda images: (seen.append(len(images)), see(images))[1])
    classes = Vocabulary.parse([f"thing number {i}" for i in range(20)])
    source = PromptSource(segmenter, classes, None, None, Condition())
    pixels = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    found = source("image", read_image(pixels), np.arange(20), np.arange(20))
    assert seen == [1] and sorted(found.prompts) == list(range(20))
