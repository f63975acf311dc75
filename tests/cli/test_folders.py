"""Folders, whose images are read and whose results are written by threads; and what a second run need not do again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.clip.base import BaseClip


@pytest.fixture
def segment(tiny_clip, capsys):
    """Run ``ovseg segment`` in this process; returns exit code, stdout and stderr."""

    def run(*arguments, classes="cat, sofa"):
        status = main(
            ["segment", *map(str, arguments), "--classes", classes, "--model", str(tiny_clip), "--device", "cpu"]
        )
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def folder(pixels, tmp_path):
    """Return a folder of images of different sizes, so that small ones could overtake large ones; one is broken."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(9):
        side = 400 if index % 3 == 0 else 30
        Image.fromarray(np.roll(pixels, index, 1)).resize((side, side)).save(folder / f"{index}.png")
    (folder / "4.png").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize("batch", [1, 2])
def test_reports_keep_the_order_and_a_broken_image_its_name(segment, folder, tmp_path, batch):
    status, stdout, stderr = segment(folder, "--output", tmp_path / "out", "--json", "--batch-size", batch)
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert status == 1 and "4.png" in stderr and stderr.count("\n") == 1
    assert [line["meta"]["image"] for line in lines] == [f"{index}.png" for index in range(9) if index != 4]
    for line in lines:
        with Image.open(line["labels"]) as labels:
            assert [labels.height, labels.width] == line["meta"]["size"]
    assert len(list((tmp_path / "out").iterdir())) == 3 * 8


def test_a_second_run_with_the_same_words_never_runs_the_text_tower(segment, photo, tmp_path, monkeypatch):
    real, embedded = BaseClip.text, []

    def counted(self, texts):
        embedded.append(list(texts))
        return real(self, texts)

    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(BaseClip, "text", counted)
    assert segment(photo, "--output", tmp_path / "out", classes="heron, kettle|pot")[0] == 0
    assert embedded
    embedded.clear()
    assert segment(photo, "--output", tmp_path / "out", classes="heron, kettle|pot")[0] == 0
    assert embedded == []
    assert segment(photo, "--output", tmp_path / "out", classes="heron, kettle|pot, bridge")[0] == 0
    assert embedded and all("bridge" in text for texts in embedded for text in texts)
