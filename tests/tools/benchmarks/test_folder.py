"""The benchmark of a folder of photographs: what several in a pass are worth."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
from benchmarks.folder import PICTURES, ROUNDS

from ovseg.meta_arch.training_free import TrainingFree


def test_batches_are_timed_in_turn_with_single_images(
    tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    encode = TrainingFree.encode
    monkeypatch.setattr(TrainingFree, "encode", lambda self, images: passes.append(len(images)) or encode(self, images))
    path = tmp_path / "folder.json"
    arguments = ["folder", "--model", str(tiny_clip), "--side", "64", "--batch-size", "4", "--json", str(path)]
    assert benchmark.main(arguments) == 0
    assert passes == (PICTURES * [1] + PICTURES // 4 * [4]) * (ROUNDS + 1)
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    one, several, ratio = figures.values()
    assert list(figures) == ["images per second, batch 1", "images per second, batch 4", "batch 4 over batch 1"]
    assert one["value"] > 0 and several["value"] > 0 and ratio["value"] > 0 and ratio["unit"] == "x"
