"""``ovseg eval`` and ``ovseg compare`` as a user meets them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.cli.progress import _lines
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.run import Job, evaluate


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"images/{i}.png")
        Image.fromarray((rng.random((5, 6)) < 0.5).astype(np.uint8).repeat(8, 0).repeat(8, 1)).save(
            folder / f"labels/{i}.png"
        )
    (folder / "classes.txt").write_text("cat|kitten\nsofa\nmoon\n")
    return folder


def test_eval_and_compare(data: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(tmp_path / name) for name in ("a", "b")]
    for model, folder in zip((str(tiny_clip), f"sclip/{tiny_clip}"), runs, strict=True):
        arguments = ["--dataset", str(data), "--model", model, "--device", "cpu", "--output", folder]
        assert main(["eval", *arguments, "--tasks", "semantic", "--templates", "simple", "--novel", "sofa"]) == 0
    out, err = capsys.readouterr()
    assert "mIoU, 2 present classes" in out and "mIoU, all 3 classes" in out
    assert "3 of 3 images evaluated" in out and "report.html" in out
    assert "warning: 2 of 3 classes occur in the ground truth" in err
    result = json.loads((tmp_path / "a/result.json").read_text())
    assert result["templates"] == "simple" and "panoptic" not in result["metrics"]
    assert result["metrics"]["semantic"]["novel_present"]["value"] == 1
    assert main(["compare", *runs, "--output", str(tmp_path / "both"), "--resamples", "50"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("| model | mIoU, present classes |") and f"| sclip/{tiny_clip} |" in out
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"compare.html", "compare.json", "compare.md"}


def test_a_broken_image_is_named_and_the_exit_code_is_one(
    data: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data / "images/1.png").write_bytes(b"\x89PNG broken")
    arguments = ["--dataset", str(data), "--model", str(tiny_clip), "--output", str(tmp_path / "run")]
    assert main(["eval", *arguments]) == 1
    out, err = capsys.readouterr()
    assert "2 of 3 images evaluated" in out and "error: 1.png: " in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "nowhere"], "unknown data set"),
        (["--dataset", "DATA", "--processes", "0"], "--processes is 0"),
        (["--dataset", "DATA", "--tasks", "panoptic"], "cannot be judged"),
        (["--dataset", "DATA", "--model", "sclipp/mini"], "did you mean"),
        (["--dataset", "DATA", "--corruptions", "fogg"], "unknown corruption 'fogg'"),
        (["--dataset", "DATA", "--vocabulary", "dog, horse"], "none of them in the 2 of the vocabulary"),
    ],
)
def test_mistakes(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    words = [str(data) if word == "DATA" else word for word in words]
    words += [] if "--model" in words else ["--model", "mini"]
    assert main(["eval", *words, "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["run/run.json", "run/records/*.jsonl"])
def test_ctrl_c_is_one_line_with_several_processes(data: Path, tiny_clip: Path, tmp_path: Path, sign: str) -> None:
    """Whether the processes are starting or at work: a terminal tells all of them."""
    for name, suffix in itertools.product(("images", "labels"), range(3, 400)):
        (data / f"{name}/{suffix}.png").symlink_to(data / f"{name}/0.png")
    arguments = ["--dataset", str(data), "--model", str(tiny_clip), "--output", str(tmp_path / "run")]
    command = [sys.executable, "-W", "ignore", "-m", "ovseg.cli", "eval", *arguments, "--processes", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not list(tmp_path.glob(sign)) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5)  # a moment in the middle
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    *before, last = err.splitlines()
    assert (process.returncode, last) == (130, "interrupted; what was written before is complete")
    assert all(line.endswith(" left") for line in before), err  # on a slow machine there is progress to tell


def test_compare_wants_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "holds no result.json; expected a folder that `ovseg eval` has finished" in capsys.readouterr().err


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 40.0, 50.0, 60.0, 100.0])
    monkeypatch.setattr("ovseg.cli.progress.time.monotonic", lambda: next(clock))
    report = _lines()
    for done in (1, 4, 5):
        report(done, 364, "files")
    for done in (1, 2):  # another thing is counted by a clock of its own
        report(done, 364, "images")
    assert capsys.readouterr().err == ("4 of 364 files, 0.1/s, 1:00:00 left\n2 of 364 images, 0.1/s, 2:00:40 left\n")


def test_a_moment_has_no_pace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what begins late, with an image that is done at once."""
    clock = iter([0.0, 1.0, 50.0, 79.0, 81.0])
    monkeypatch.setattr("ovseg.cli.progress.time.monotonic", lambda: next(clock))
    report = _lines()
    report(0, 9, "files")
    for done in (1, 2, 4):
        report(done, 400, "images")
    assert capsys.readouterr().err == "4 of 400 images, 0.1/s, 0:51:09 left\n"


def test_looking_at_files_is_shown(data: Path, tmp_path: Path) -> None:
    """The first pass over a data set takes minutes on large ones."""
    seen: list[tuple[int, int, str]] = []
    plan = Plan(str(data), predictions=str(data / "labels"))
    assert evaluate([Job(plan, tmp_path / "run")], report=lambda *what: seen.append(what))
    count = len(list((data / "images").iterdir()))
    done, total = [what for what in seen if what[2] == "images"], [what for what in seen if "known by" in what[2]]
    assert seen[0][2] == "images looked at: their files are known by content"
    assert done[-1] == (count, count, "images") and [what[:2] for what in total] == [(count, count)] * 2
