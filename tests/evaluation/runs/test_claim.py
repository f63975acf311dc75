"""A finished or killed run is gone on with only where everything that makes its numbers is the same."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ovseg.cli import main
from ovseg.errors import InputError
from ovseg.evaluation.reports.finish import finish
from ovseg.evaluation.robustness import Corruption
from ovseg.evaluation.runs import claim as claims
from ovseg.evaluation.runs import job as jobs
from ovseg.evaluation.runs import run as module
from ovseg.evaluation.runs.claim import ADOPT, FRESH
from ovseg.evaluation.runs.image_log import read_log
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, Run, evaluate
from ovseg.evaluation.runs.worker import Worker

CLASSES = ("cat", "sofa", "wall")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def write_data(folder: Path) -> Path:
    """Three random images with rectangles."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for i in range(3):
        labels = np.full((24, 32), 2, np.uint8)
        labels[4 : 12 + 3 * i, 4:20] = i % 2
        Image.fromarray(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray(labels).save(folder / f"labels/{i}.png")
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


@pytest.fixture
def model(tiny_clip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clip, tmp_path / "model"))


def train_on(model: Path) -> None:
    """Change the weights as further training does: same names, same shapes."""
    state = load_file(model / "open_clip_model.safetensors")
    key = next(key for key in state if key.endswith("attn.in_proj_weight"))
    state[key] = state[key] + 0.05 * torch.randn(state[key].shape)
    save_file(state, model / "open_clip_model.safetensors")


def swap_labels(data: Path) -> None:
    for path in (data / "labels").iterdir():
        labels = np.asarray(Image.open(path))
        Image.fromarray(np.where(labels == 2, 0, 2).astype(np.uint8)).save(path)


def asked_for(data: Path, model: Path) -> Plan:
    return Plan(str(data), str(model), templates="none")


def run(plan: Plan, folder: Path, begin: str = claims.RESUME, processes: int = 1) -> Run:
    found = evaluate([Job(plan, folder)], processes, begin=begin)
    assert found is not None
    return found[0]


CHANGES: list[tuple[Callable[[Path, Path], object], dict[str, Any], str]] = [
    (lambda data, model: train_on(model), {}, r"weights_hash was \w+, is \w+"),
    (lambda data, model: swap_labels(data), {}, r"labels: 3 changed \(0.png, 1.png, 2.png\)"),
    (lambda data, model: shutil.copy(data / "images/0.png", data / "images/1.png"), {}, r"images: 1 changed \(1.png\)"),
    (lambda data, model: [(data / f"{name}/2.png").unlink() for name in ("images", "labels")], {},
     r"images: 1 removed \(2.png\)"),
    (lambda data, model: (data / "classes.txt").write_text("sofa\ncat\nwall\n"), {},
     r"classes: 2 in another order \(cat, sofa -> sofa, cat\)"),
    (lambda data, model: None, {"background": "threshold:0.3"}, "background was none, is threshold:0.3"),
    (lambda data, model: None, {"templates": "simple"}, "templates was none, is simple; texts was"),
    (lambda data, model: None, {"distractors": 1}, "distractors was null, is 1"),
    (lambda data, model: None, {"seed": 5}, "seed was 0, is 5"),
    (lambda data, model: None, {"novel": "cat"}, r'novel was null, is \["cat"\]'),
    (lambda data, model: None, {"boundary": True}, "boundary was false, is true"),
    (lambda data, model: None, {"limit": 2}, r"images: 1 removed \(2.png\)"),
    (lambda data, model: None, {"dtype": "bf16"}, "dtype was float32, is bfloat16"),
    (lambda data, model: None, {"overrides": {"MODEL": {"PROTOCOL": {"SHORT_SIDE": 40}}}},
     "settings.size_rule.short_side was"),
    (lambda data, model: None, {"condition": Corruption("fog", 1)}, "condition was"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "asked", "said"), CHANGES)
def test_numbers_of_something_else_are_refused_before_any_work(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], object], asked: dict[str, Any], said: str,
) -> None:  # fmt: skip
    plan = asked_for(data, model)
    finish([run(plan, tmp_path / "run")])
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    change(data, model)
    monkeypatch.setattr(Worker, "measure", lambda self, index: pytest.fail("it is to be refused before"))
    with pytest.raises(InputError, match=f"numbers of something else: .*{said}.*; start anew with --fresh") as error:
        run(dataclasses.replace(plan, **asked), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def command(data: Path, model: Path) -> list[str]:
    """Return an evaluation by the command line; the folder of the run is to be added."""
    return ["eval", "--dataset", str(data), "--model", str(model), "--templates", "none", "--output"]


@pytest.mark.parametrize(
    ("how", "killed"), [([], False), ([], True), pytest.param(["--processes", "2"], True, marks=pytest.mark.slow)]
)
def test_further_training_by_the_command_line(
    data: Path, model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], how: list[str], killed: bool
) -> None:
    """The old weights' number is never the new ones', whether the run was finished or stopped half-way."""
    words = command(data, model)
    assert main([*words, str(tmp_path / "run")]) == 0
    capfd.readouterr()
    if killed:
        lines = (tmp_path / "run/images.jsonl").read_text().splitlines()
        (tmp_path / "run/images.jsonl").write_text("\n".join(lines[:2]) + "\n")
    train_on(model)
    assert main([*words, str(tmp_path / "run"), *how]) == 2
    assert "weights_hash was" in capfd.readouterr().err
    assert main([*words, str(tmp_path / "run"), *how, "--fresh"]) == 0
    assert main([*words, str(tmp_path / "new")]) == 0
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("run", "new")]
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["model"] == results[1]["model"]


@pytest.mark.slow
def test_two_processes_of_torchrun_refuse_as_one(data: Path, model: Path, tmp_path: Path) -> None:
    finish([run(asked_for(data, model), tmp_path / "run")])
    train_on(model)
    words = [*command(data, model), str(tmp_path / "run")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["-m", "ovseg.cli"]
    options: dict[str, Any] = {"capture_output": True, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    done = subprocess.run([*torchrun, *words], check=False, **options)
    assert done.returncode != 0 and done.stderr.count("holds numbers of something else: weights_hash was") == 2
    done = subprocess.run([*torchrun, *words, "--fresh"], check=False, **options)
    assert done.returncode == 0, done.stderr


def test_a_process_that_loads_something_else_says_so(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files written to between the comparison and the work: nothing is logged by the other weights."""
    real = module.claim
    monkeypatch.setattr(module, "claim", lambda *words: (real(*words), train_on(model))[0])
    with pytest.raises(InputError, match=r"process \d has loaded something else than the first \(weights_hash was"):
        run(asked_for(data, model), tmp_path / "run", processes=2)
    assert not read_log(tmp_path / "run").images


def test_data_that_change_meanwhile_are_noticed(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module._evaluate
    monkeypatch.setattr(module, "_evaluate", lambda *words: (real(*words), swap_labels(data))[0])
    with pytest.raises(InputError, match=r"data changed while '.*/run' was evaluated \(labels: 3 changed"):
        run(asked_for(data, model), tmp_path / "run")


def test_places_and_spellings_do_not_count(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data and model elsewhere, touched and called otherwise: the finished run is told as such."""
    words = ["--device", "cpu", "--templates", "none", "--output", str(tmp_path / "run")]
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "--dataset", "data", "--model", str(model), *words]) == 0
    first = json.loads((tmp_path / "run/result.json").read_text())
    data.rename(tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*.png"):
        os.utime(path)
    model.rename(tmp_path / "other")
    capsys.readouterr()
    assert main(["eval", "--dataset", "./elsewhere", "--model", str(tmp_path / "other"), *words, "--limit", "3"]) == 0
    err = capsys.readouterr().err
    assert f"note: '{tmp_path / 'run'}' holds the finished run" in err and "nothing was evaluated anew" in err
    assert "only the first" not in err
    again = json.loads((tmp_path / "run/result.json").read_text())
    assert again["metrics"] == first["metrics"] and again["counts"] == first["counts"]


def test_the_first_images_are_said_where_there_are_more(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "eval",
        "--dataset",
        str(data),
        "--model",
        str(model),
        "--templates",
        "none",
        "--output",
        str(tmp_path / "run"),
        "--limit",
    ]
    assert main([*words, "2", "--output", str(tmp_path / "run")]) == 0
    assert "warning: only the first 2 of 3 images were evaluated (--limit)" in capsys.readouterr().err


def test_fresh_deletes_what_the_run_wrote_and_nothing_else(data: Path, model: Path, tmp_path: Path) -> None:
    plan, folder = asked_for(data, model), tmp_path / "run"
    finish([run(plan, folder)])
    mine = [folder / "notes.txt", folder / "labels/mine.png", folder / "robustness/fog-1/result.json"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    stale = folder / "labels/2.png"
    assert stale.is_file()
    again = run(dataclasses.replace(plan, limit=2), folder, FRESH)
    assert len(again.log.good) == 2 and not stale.exists() and not (folder / "result.json").exists()
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_fresh_in_a_folder_without_a_run_deletes_nothing(data: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/result.json").write_text("mine")
    run(asked_for(data, model), tmp_path / "run", FRESH)
    assert (tmp_path / "run/result.json").read_text() == "mine"


def test_nothing_is_deleted_where_the_new_run_cannot_begin(data: Path, model: Path, tmp_path: Path) -> None:
    finish([run(asked_for(data, model), tmp_path / "run")])
    with pytest.raises(Exception, match="nowhere"):
        run(asked_for(data, tmp_path / "nowhere"), tmp_path / "run", FRESH)
    assert (tmp_path / "run/result.json").is_file() and len(read_log(tmp_path / "run").good) == 3


def as_written_before(folder: Path, plan: Plan) -> None:
    """Bring a run to the form of the version before: no identity, no contents, labels by stem, other names."""
    (folder / "data.jsonl").unlink()
    (folder / "labels/classes.json").unlink()
    lines = [json.loads(line) for line in (folder / "images.jsonl").read_text().splitlines()]
    source = lines[0]["source"]
    source.pop("texts")
    if source["settings"]:
        source["settings"]["protocol"] |= source["settings"].pop("size_rule")  # where it was then
        source["settings"]["gone"] = 1
    names = []
    for row in lines[1:]:
        names.append(row["name"])
        row["name"] = f"images/{row['name']}"
        del row["labels"]
    (folder / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    classes = module.open_jobs([Job(plan, folder)])[0].dataset.classes
    (folder / "run.json").write_text(json.dumps({**plan.to_json(), "vocabulary_hash": classes.hash, "images": names}))


def test_runs_of_earlier_versions_are_taken_over_on_request(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, folder = asked_for(data, model), tmp_path / "run"
    first = finish([run(plan, folder)])
    as_written_before(folder, plan)
    words = ["eval", "--dataset", str(data), "--model", str(model), "--templates", "none", "--output", str(folder)]
    assert main(words) == 2
    assert "take it over with --adopt, which compares what can be compared, start" in capsys.readouterr().err
    assert main([*words, "--adopt"]) == 0
    err = capsys.readouterr().err
    assert (
        "3 images were taken over" in err
        and "not compared: contents of images, places of labels, ovseg, measures, texts" in err
    )
    assert "settings.gone" in err and "short_side" not in err
    again = json.loads((folder / "result.json").read_text())
    assert again["metrics"] == first["metrics"] and any("taken over" in line for line in again["notes"])
    assert [record.name for record in read_log(folder).ordered] == ["0.png", "1.png", "2.png"]
    assert main(words) == 0  # it is a run like any other now, and still says so
    assert "3 images were taken over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "asked", "said"),
    [
        (lambda data, model: train_on(model), {}, "weights_hash was"),
        (lambda data, model: swap_labels(data), {}, "labels: 3 have other pixels of their classes"),
        (lambda data, model: None, {"seed": 3}, "seed was 0, is 3"),
        (lambda data, model: None, {"novel": "cat"}, "novel was null, is"),
        (lambda data, model: None, {"condition": Corruption("fog", 2)}, "condition was"),
        (lambda data, model: None, {"limit": 2}, "images: were 3, are 2"),
        (
            lambda data, model: None,
            {"overrides": {"MODEL": {"PROTOCOL": {"SHORT_SIDE": 40}}}},
            "settings.protocol.short_side was 336, is 40",
        ),
        (lambda data, model: (data / "classes.txt").write_text("sofa\ncat\nwall\n"), {}, "classes are others"),
    ],
)
def test_what_can_be_compared_of_earlier_runs_is(
    data: Path, model: Path, tmp_path: Path, change: Callable[[Path, Path], object], asked: dict[str, Any], said: str
) -> None:
    plan = asked_for(data, model)
    run(plan, tmp_path / "run")
    as_written_before(tmp_path / "run", plan)
    change(data, model)
    with pytest.raises(InputError, match=f"{said}.*--fresh"):
        run(dataclasses.replace(plan, **asked), tmp_path / "run", ADOPT)


def test_predictions_of_earlier_runs_are_evaluated_again(data: Path, tmp_path: Path) -> None:
    """There is nothing to compare them with, and no model has to run."""
    plan = Plan(str(data), predictions=str(data / "labels"))
    run(plan, tmp_path / "run")
    as_written_before(tmp_path / "run", plan)
    for begin in (claims.RESUME, ADOPT):
        with pytest.raises(InputError, match=r"earlier version\?\); start anew with --fresh, or choose"):
            run(plan, tmp_path / "run", begin)
    assert len(run(plan, tmp_path / "run", FRESH).log.good) == 3


@pytest.mark.parametrize(
    "broken", ["{", "[]", "{}", '{"identity": [1]}', '{"identity": "x"}', '{"dataset": "x", "tasks": 3}']
)
def test_a_log_without_a_plan_is_no_dead_end(data: Path, model: Path, tmp_path: Path, broken: str) -> None:
    """What was asked for is unknown then (distractors, seed, ...): the numbers cannot be taken over."""
    run(asked_for(data, model), tmp_path / "run")
    (tmp_path / "run/run.json").write_text(broken)
    for begin in (claims.RESUME, ADOPT):
        with pytest.raises(InputError, match="does not say what made its numbers; start anew with --fresh"):
            run(dataclasses.replace(asked_for(data, model), distractors=0), tmp_path / "run", begin)
    assert len(run(asked_for(data, model), tmp_path / "run", FRESH).log.good) == 3


def test_other_versions_of_packages_are_said(data: Path, model: Path, tmp_path: Path) -> None:
    """They refuse nothing: a run that takes days outlives an update, and says so."""
    plan, folder = asked_for(data, model), tmp_path / "run"
    run(plan, folder)
    lines = (folder / "images.jsonl").read_text().splitlines()
    source = json.loads(lines[0])
    source["source"]["versions"]["numpy"] = "0.9"
    (folder / "images.jsonl").write_text("\n".join([json.dumps(source), *lines[1:3]]) + "\n")
    found = run(plan, folder)
    assert found.before == 2
    said = finish([found])["notes"]
    assert len(said) == 1 and said[0].startswith(
        f"images were done with numpy 0.9 and {np.__version__}: the last digits"
    )


def test_another_version_of_the_measures_is_refused(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(asked_for(data, model), tmp_path / "run")
    monkeypatch.setattr(jobs, "VERSION", jobs.VERSION + 1)
    with pytest.raises(InputError, match="measures was 1, is 2"):
        run(asked_for(data, model), tmp_path / "run")
