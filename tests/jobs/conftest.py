"""Jobs in a process of their own, and folders that are compared byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg.jobs.label.plan import LabelPlan
from ovseg.vocabulary import Vocabulary
from tests.conftest import make_photo

CLASSES = "cat, red chair|armchair, window"
TIMED = ("run.json", ".seen.jsonl", ".lock")
"""Files that are never the same twice: times of the run, and of the files."""


def write_photos(folder: Path, count: int, size: tuple[int, int] = (48, 36)) -> Path:
    """Write so many photographs, each of other pixels, some of them a folder deeper."""
    for number in range(count):
        path = folder / ("deep" if number % 3 == 2 else "") / f"{number:04d}.{'png' if number % 2 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_photo(*size, seed=number)).save(path)
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    """Return all files of a job that are the same in any run."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in TIMED)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def assert_same(one: Path, other: Path) -> None:
    """Compare two jobs byte for byte; what `run.json` holds besides times is the same, too."""
    files = files_of(one)
    assert files == files_of(other) and files
    runs = [json.loads((folder / "run.json").read_text()) for folder in (one, other)]
    assert len({json.dumps({**run, "timings": 0}) for run in runs}) == 1


@pytest.fixture
def plan(tiny_clip: Path, tmp_path: Path) -> Callable[..., LabelPlan]:
    """Ask for labels of inputs by the tiny CLIP."""

    def make(*inputs: Path | str, classes: str = CLASSES, **options: Any) -> LabelPlan:
        given = {"model": str(tiny_clip), "templates": "none", "device": "cpu", **options}
        return LabelPlan(tuple(map(str, inputs)), Vocabulary.parse(classes), **given)

    return make


def command(*arguments: Path | str) -> list[str]:
    """Return a call of `ovseg label`."""
    return [sys.executable, "-W", "ignore", "-m", "ovseg.cli", "label", *map(str, arguments)]


def start(*arguments: Path | str, **options: Any) -> subprocess.Popen[str]:
    """Start `ovseg label` in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(*arguments), env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
    )


def write_video(path: Path, frames: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), (0, 20 * number, 200), np.uint8))  # blue, green, red
    writer.release()
    return path
