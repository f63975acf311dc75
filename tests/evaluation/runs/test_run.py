"""Runs: every image is measured once, whatever is killed, shared out or broken."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.data import registration
from ovseg.data.own_data import read_folder
from ovseg.errors import ConfigError, InputError, OvsegError
from ovseg.evaluation.reports.finish import finish
from ovseg.evaluation.robustness import Corruption, Distractors
from ovseg.evaluation.runs.image_log import read_log
from ovseg.evaluation.runs.plan import Plan, read_plan
from ovseg.evaluation.runs.run import Job, Run, evaluate
from ovseg.evaluation.runs.worker import Worker
from ovseg.result.formats.labels import read_label_png

CLASSES = ("cat", "sofa", "wall", "lamp")


def write_data(
    folder: Path, images: int = 4, classes: tuple[str, ...] = CLASSES, size: tuple[int, int] = (40, 48)
) -> Path:
    """Write random images with rectangles of three of the classes and a void corner."""
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i in range(images):
        labels = np.full(size, 2, np.uint8)
        labels[5 : 25 + i, 4:30] = i % 2
        labels[:4, :4] = 255
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(labels).save(folder / f"labels/{i}.png")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def run(plan: Plan, folder: Path, processes: int = 1) -> Run:
    found = evaluate([Job(plan, folder)], processes)
    assert found is not None
    return found[0]


def comparable(folder: Path) -> dict[str, object]:
    """Return all of result.json but what is never the same twice."""
    return {key: value for key, value in json.loads((folder / "result.json").read_text()).items() if key != "timing"}


def assert_same(one: Path, other: Path) -> None:
    assert comparable(one) == comparable(other)
    assert (one / "per_class.csv").read_bytes() == (other / "per_class.csv").read_bytes()
    for path in sorted((one / "labels").iterdir()):
        assert path.read_bytes() == (other / "labels" / path.name).read_bytes()
    logs = [
        [{**dataclasses.asdict(r), "seconds": 0, "peak": 0} for r in read_log(folder).ordered]
        for folder in (one, other)
    ]
    assert logs[0] == logs[1]


KILLED = """
import os, signal, sys
from pathlib import Path
import ovseg.evaluation.runs.run as module
from ovseg.evaluation.runs.plan import Plan
real = module.save_labels
def dies(path, labels):
    if path.stem == "2":
        os.kill(os.getpid(), signal.SIGKILL)
    real(path, labels)
module.save_labels = dies
module.evaluate([module.Job(Plan(sys.argv[1], sys.argv[2], distractors=1), Path(sys.argv[3]))])
"""


def test_a_killed_run_goes_on_and_is_equal_to_the_bit(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    plan = Plan(str(data), str(tiny_clip), distractors=1)
    finish([run(plan, tmp_path / "whole")])
    killed = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", KILLED, str(data), str(tiny_clip), str(killed)], check=False)
    assert done.returncode == -9
    (part,) = (killed / "records").iterdir()
    assert sorted(read_log(killed).images) == [0, 1]
    part.write_text(part.read_text() + '{"index": 2, "na')  # a line that the kill has cut in two
    finish([run(plan, killed)])
    assert_same(tmp_path / "whole", killed)
    assert not (killed / "records").exists()


def test_two_processes_equal_one(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    plan = Plan(str(data), str(tiny_clip))
    for processes in (1, 2):
        finish([run(plan, tmp_path / str(processes), processes)])
    assert_same(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_two_processes_of_torchrun_equal_one(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    finish([run(Plan(str(data), str(tiny_clip)), tmp_path / "1")])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words = ["eval", "--model", str(tiny_clip), "--dataset", str(data), "--output", str(tmp_path / "2")]
    command = [sys.executable, *torchrun, "ovseg.cli", *words]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "1", tmp_path / "2")


def test_what_is_done_is_not_done_again(
    data: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(str(data), str(tiny_clip), limit=2)
    first = run(plan, tmp_path / "run")
    monkeypatch.setattr(Worker, "measure", lambda self, index: pytest.fail("it is done"))
    again = run(plan, tmp_path / "run")
    assert again.log == first.log and len(again.log.good) == 2
    assert (first.before, again.before, again.total) == (0, 2, 4)


def test_another_plan_in_the_folder_is_refused(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    run(Plan(str(data), str(tiny_clip), limit=1), tmp_path / "run")
    with pytest.raises(InputError, match=r"something else: images: 1 added \(1\.png\); start anew with --fresh"):
        run(Plan(str(data), str(tiny_clip), limit=2), tmp_path / "run")


def test_broken_files_are_named_and_the_rest_goes_on(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    (data / "images/1.png").write_bytes(b"no picture")
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(data / "labels/2.png")
    found = run(Plan(str(data), str(tiny_clip)), tmp_path / "run")
    assert [record.index for record in found.log.good] == [0, 3]
    summary = finish([found])
    assert summary["counts"]["failed"] == 2
    assert [one["image"] for one in summary["failed"]] == ["1.png", "2.png"]
    assert "1.png" in summary["failed"][0]["error"] and "value 77" in summary["failed"][1]["error"]
    assert any("2 of 4 images could not be evaluated" in line for line in summary["warnings"])
    write_data(tmp_path / "fresh")
    shutil.copy(tmp_path / "fresh/images/1.png", data / "images/1.png")
    assert len(run(Plan(str(data), str(tiny_clip)), tmp_path / "run").log.good) == 3  # what was mended is tried again


def test_an_image_of_void_with_no_distractors_has_no_class(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    """There is no word to ask the model for; the other images are evaluated as ever."""
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(data / "labels/0.png")
    summary = finish([run(Plan(str(data), str(tiny_clip), distractors=0), tmp_path / "run")])
    assert summary["counts"]["evaluated"] == 4
    assert (read_label_png(tmp_path / "run/labels/0.png") == -1).all()
    assert summary["metrics"]["semantic"]["void_share"]["value"] > 0.25


def test_saved_predictions_of_all_forms(data: Path, tmp_path: Path) -> None:
    """Perfect predictions give 1, in 8 and 16 bits; a broken one is named."""
    from ovseg.result.segmentation import Segmentation
    from ovseg.vocabulary import Vocabulary

    saved = tmp_path / "saved"
    saved.mkdir()
    truth = [np.asarray(Image.open(data / f"labels/{i}.png")).astype(np.int32) for i in range(4)]
    Image.fromarray(np.where(truth[0] == 255, 0, truth[0]).astype(np.uint8)).save(saved / "0.png")
    Image.fromarray(np.where(truth[1] == 255, 65535, truth[1]).astype(np.uint16)).save(saved / "1.labels.png")
    labels = np.where(truth[2] == 255, -1, truth[2]).astype(np.int32)
    scores, image = np.ones(labels.shape, np.float32), np.zeros((*labels.shape, 3), np.uint8)
    Segmentation(labels, scores, Vocabulary.parse(list(CLASSES)), image).save(saved / "2.npz")
    (saved / "3.png").write_bytes(b"no picture")
    found = run(Plan(str(data), predictions=str(saved)), tmp_path / "run")
    summary = finish([found])
    assert summary["metrics"]["semantic"]["miou_present"]["value"] == 1
    assert summary["metrics"]["semantic"]["miou_all"]["value"] == 0.75
    assert summary["metrics"]["calibration"]["expected_calibration_error"]["value"] == 0
    assert summary["failed"][0]["image"] == "3.png" and "3.png" in summary["failed"][0]["error"]
    assert (read_label_png(tmp_path / "run/labels/1.png") == np.where(truth[1] == 255, -1, truth[1])).all()


def test_missing_and_wrong_predictions_are_named(data: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(saved / "0.png")
    Image.fromarray(np.zeros((40, 20), np.uint8)).save(saved / "1.png")
    errors = [r.error for r in run(Plan(str(data), predictions=str(saved), limit=3), tmp_path / "run").log.ordered]
    assert "holds the value 9; expected 0 to 3" in errors[0]
    assert "is 20x40 pixels, its ground truth 48x40" in errors[1]
    assert "is missing" in errors[2]


def test_ground_truth_of_another_size_counts_at_its_own(data: Path, tmp_path: Path) -> None:
    """Labels are brought to the ground truth, never the other way, and the report says so."""
    saved = tmp_path / "saved"
    shutil.copytree(data / "labels", saved)
    for i in range(4):
        path = data / f"labels/{i}.png"
        Image.open(path).resize((96, 80), Image.Resampling.NEAREST).save(path)
        found = np.asarray(Image.open(saved / f"{i}.png"))
        Image.fromarray(np.where(found == 255, 0, found)).save(saved / f"{i}.png")
    summary = finish([run(Plan(str(data), predictions=str(saved)), tmp_path / "run")])
    assert summary["metrics"]["semantic"]["miou_present"]["value"] == 1
    assert any("4 images have resized ground truth" in line for line in summary["warnings"])


def test_conditions_have_runs_of_their_own(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    plan = Plan(str(data), str(tiny_clip), limit=2)
    tests = [dataclasses.replace(plan, condition=one) for one in (Corruption("fog", 5), Distractors(severity=3))]
    jobs = [Job(plan, tmp_path / "run"), *(Job(one, tmp_path / "run" / one.condition.key) for one in tests)]
    runs = evaluate(jobs)
    assert runs is not None
    summary = finish(runs)
    assert summary["conditions"] == ["fog-5", "distractors-3"]
    robust = summary["robustness"]
    assert robust["clean"]["miou_present"] == summary["metrics"]["semantic"]["miou_present"]["value"]
    assert set(robust["families"]) == {"corruption", "openness"}
    assert "fog-5" in (tmp_path / "run/report.html").read_text()
    labels = [read_label_png(tmp_path / f"run/{key}labels/0.png") for key in ("", "distractors-3/")]
    assert (labels[1] < len(CLASSES)).all() and (labels[0] != labels[1]).any()


@pytest.mark.parametrize("processes", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_the_data_set_is_read_once(
    data: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    """Whatever words and conditions there are; processes of their own get what was read."""
    reads = []
    monkeypatch.setattr(registration, "read_folder", lambda folder: reads.append(folder) or read_folder(folder))
    words = ["eval", "--model", str(tiny_clip), "--dataset", str(data), "--output", str(tmp_path / "run")]
    words += ["--rename", "cat=dog", "--vocabulary", "lamp, dog, sofa, wall", "--corruptions", "fog:5", "--typos", "1"]
    assert main([*words, "--processes", processes]) == 0
    assert reads == [data]
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["conditions"] == ["fog-5", "typos-1"]
    assert any("renamed 1 of 4 classes of the data: cat to dog" in line for line in result["notes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 0}, "--limit is 0; expected at least 1"),
        ({"distractors": -1}, "--distractors is -1"),
        ({"predictions": "x", "distractors": 2}, "expected a --model"),
        ({"predictions": "x", "model": "sclip/mini"}, "--model with --predictions: no model is run"),
        (
            {"predictions": "x", "protocol": "common", "background": "none", "templates": "none"},
            "--protocol, --background, --templates with --predictions: .*; leave it out",
        ),
        ({"predictions": "x", "device": "cpu", "dtype": "bf16"}, "--device, --dtype with --predictions"),
        ({"predictions": "x", "condition": Corruption("fog", 1)}, "expected a --model, not --predictions"),
        ({"model": ""}, r"no model was named; expected --model NAME .*, or --predictions"),
        ({"model": "auto"}, "an evaluation needs a name"),
        ({"tasks": ("panoptic",)}, "cannot be judged by the semantic ground truth"),
        ({"tasks": ("depth",)}, "task 'depth'"),
        ({"novel": "horse, cat"}, r"unknown novel class .of 4 classes. 'horse'; known: cat, "),
        ({"predictions": "nowhere"}, "folder of predictions 'nowhere' does not exist"),
    ],
)
def test_mistakes_are_one_line(data: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(OvsegError, match=message) as caught:
        given = {} if "predictions" in change else {"model": "mini"}
        run(dataclasses.replace(Plan(str(data)), **{**given, **change}), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_plan_of_an_earlier_version_with_saved_predictions_names_no_model(tmp_path: Path) -> None:
    values = {**Plan("d", predictions="saved").to_json(), "model": "mini"}  # the default then
    (tmp_path / "run.json").write_text(json.dumps({"request": values}), encoding="utf-8")
    assert read_plan(tmp_path) == Plan("d", predictions="saved")


def test_processes_must_be_positive(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--processes is 0"):
        run(Plan(str(data), "mini"), tmp_path / "run", 0)


def test_images_of_another_model_are_refused(data: Path, tiny_clip: Path, tmp_path: Path) -> None:
    run(Plan(str(data), str(tiny_clip), limit=1), tmp_path / "run")
    log = tmp_path / "run/images.jsonl"
    (tmp_path / "run/records").mkdir()
    other = log.read_text().replace('"weights_hash": "', '"weights_hash": "x')
    (tmp_path / "run/records/0-a.jsonl").write_text(other)
    with pytest.raises(InputError, match=r"different runs \(weights_hash was"):
        read_log(tmp_path / "run")
