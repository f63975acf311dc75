"""Miniature trees of benchmarks, and the command line on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.data.benchmarks import BENCHMARKS


def save_image(path: Path, size: tuple[int, int] = (12, 16), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=95)


def save_labels(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def stripes(*values: int, dtype: type = np.uint8, size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """Return (H, W) with the values in equal stripes from left to right."""
    height, width = size
    return np.repeat(np.array(values, dtype), width // len(values))[None].repeat(height, 0)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The folder of all data sets."""
    folder = tmp_path / "sets"
    folder.mkdir()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def expect(monkeypatch):
    """Set how many images a benchmark's splits are expected to have, so that miniatures are whole."""

    def set_count(name: str, count: int) -> None:
        one = BENCHMARKS[name]
        splits = {key: dataclasses.replace(split, count=count) for key, split in one.splits.items()}
        monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(one, splits=splits))

    return set_count


@pytest.fixture
def datasets(capsys):
    """Run ``ovseg datasets``: exit code, output, errors."""

    def call(*words) -> tuple[int, str, str]:
        status = main(["datasets", *map(str, words)])
        return status, *capsys.readouterr()

    return call


def labels_of(dataset, index: int = 0) -> list[int]:
    """Return the classes of the four stripes of an image; -1 void."""
    return dataset.read_segments(dataset.records[index], (12, 16)).semantic()[0, ::4].tolist()


def stored(dataset, index: int = 0) -> tuple[str, list[int]]:
    """Return dtype and values of the four stripes of the file that Detectron2's evaluators read."""
    values = np.asarray(Image.open(dataset.records[index]["sem_seg_file_name"]))
    return values.dtype.name, values[0, ::4].tolist()
