"""The benchmark of SAM 3 runs on a network of any size, and ends in time."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.sam3 as tool

from tests.meta_arch.sam3.tiny import write_config


@pytest.mark.parametrize(("seconds", "ran"), [("400", 9), ("1", 4)])
def test_rounds_end_in_time_and_what_ran_is_said(tmp_path, monkeypatch, seconds, ran):
    """What all phrases take is by those that ran."""
    monkeypatch.setattr(tool, "MATMUL", 64)
    clock = SimpleNamespace(perf_counter=time.perf_counter, monotonic=iter(range(100)).__next__)
    monkeypatch.setattr(tool, "time", clock)  # on which a second passes with each look
    config, found = write_config(tmp_path) / "config.json", tmp_path / "found.json"
    options = ["--phrases", "9", "--size", "90x60", "--max-memory", "0.0003", "--seconds", seconds]
    benchmark.main(["sam3", *options, "--config", str(config), "--json", str(found)])
    figures = {row["name"]: row["value"] for row in json.loads(found.read_text())["figures"]}
    assert figures["9 phrases: that ran"] == ran
    assert figures["9 phrases: together"] == pytest.approx(9 * figures["9 phrases: a phrase"])
    assert figures["9 phrases: semantic logits apart by"] < 1e-3 and figures["a phrase, multiply-adds"] > 0
