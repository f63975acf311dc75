"""The benchmark of methods: what it prints, writes and fails on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.recalibrations as tool

ARGUMENTS = ["recalibrations", "--arch", "ViT-B-32", "--size", "32", "--repeats", "1", "--device", "cpu"]


@pytest.fixture
def small(monkeypatch, tiny_clip):
    """Measure on the tiny CLIP: a full tower takes seconds to build."""
    from ovseg.clip import ViTClip

    monkeypatch.setattr(tool, "random_clip", lambda arch, size: ViTClip.from_folder(tiny_clip))


@pytest.mark.usefixtures("small")
def test_measures_and_writes(tmp_path, capsys):
    path = tmp_path / "costs.json"
    arguments = [*ARGUMENTS, "--methods", "CLIP,SCLIP,ProxyCLIP", "--limit", "1000", "--json", str(path)]
    assert benchmark.main(arguments) == 0
    report = json.loads(path.read_text())
    assert [row["method"] for row in report["rows"]] == ["CLIP", "SCLIP", "ProxyCLIP"]
    assert [row["attention_only"] for row in report["rows"]] == [True, True, False]
    assert all(row["ratio"] > 0 for row in report["rows"]) and "ViT-B-32, 32 px, cpu" in report["where"]
    assert "SCLIP" in capsys.readouterr().out


@pytest.mark.usefixtures("small")
def test_methods_are_given_words(monkeypatch):
    from ovseg.contract import Words
    from ovseg.recalibration import Recalibration

    seen = []
    real = Recalibration.patch_scores
    monkeypatch.setattr(Recalibration, "patch_scores", lambda *given: seen.append(given[2]) or real(*given))
    assert benchmark.main([*ARGUMENTS, "--methods", "CLIP", "--classes", "7", "--limit", "1000"]) == 0
    assert seen and all(isinstance(words, Words) and len(words.vocabulary) == 7 for words in seen)


@pytest.mark.usefixtures("small")
def test_a_slow_method_of_attention_alone_fails(capsys):
    assert benchmark.main([*ARGUMENTS, "--methods", "SCLIP,ProxyCLIP", "--limit", "0.0001"]) == 1
    assert "problem: SCLIP cost more than 0.0001" in capsys.readouterr().out
