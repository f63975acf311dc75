"""What --dtype auto takes: stored measurements, found by content, never trusted when broken."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from ovseg.system import precision
from ovseg.system.device import CPU, cpu_features, processor
from ovseg.system.precision import Measurement, choose, find, hash_settings, percent, store

SETTINGS = {"architecture": "SAN", "size": 640}


@pytest.fixture
def units(monkeypatch, tmp_path):
    """A processor that multiplies bfloat16, and a cache folder of its own."""
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))


def measured(**changes):
    found = Measurement(
        "san", "abc", hash_settings(SETTINGS), processor(), torch.__version__, 3, 900, 5, 0.9995, 1.0, 0.5, "2026-11-30"
    )
    return dataclasses.replace(found, **changes)


def test_what_was_measured_decides(units):
    assert choose(CPU, torch.float32, "abc", SETTINGS) == (torch.float32, [])
    store(measured())
    dtype, (line,) = choose(CPU, torch.float32, "abc", SETTINGS)
    assert dtype == torch.bfloat16 and line.startswith("dtype auto is bf16 here: 99.950 % of the labels of 3 images")
    assert choose(torch.device("cuda"), torch.float16, "abc", SETTINGS) == (torch.float16, [])


@pytest.mark.parametrize(
    "changes, said",
    [({"kept": 0.99899}, "99.899 %"), ({"kept": 0.99899}, "99.9 % are needed"), ({"seconds": 0.5}, "nothing is saved")],
)
def test_bf16_that_changes_labels_or_saves_nothing_is_not_taken(units, changes, said):
    store(measured(**changes))
    dtype, (line,) = choose(CPU, torch.float32, "abc", SETTINGS)
    assert dtype == torch.float32 and line.startswith("dtype auto is fp32 here") and said in line


def test_other_weights_settings_machines_and_releases_have_other_measurements(units, monkeypatch):
    store(measured())
    store(measured(processor="another"))
    store(measured(torch="1.0"))
    assert find("abd", SETTINGS) is None
    assert find("abc", {**SETTINGS, "size": 800}) is None
    assert find("abc", SETTINGS) == measured()
    monkeypatch.setattr(precision, "processor", lambda: "a third")
    assert find("abc", SETTINGS) is None


def test_without_units_nothing_is_taken(units, monkeypatch):
    store(measured())
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset({"avx512f"}))
    assert choose(CPU, torch.float32, "abc", SETTINGS) == (torch.float32, [])


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", '{"model": 1}', "\0"),
        json.dumps(dataclasses.asdict(measured(kept="much"))),
        json.dumps(dataclasses.asdict(measured(weights_hash="other"))),
    ],
)
def test_a_broken_file_is_told_and_ignored(units, content):
    path = store(measured())
    path.write_text(content)
    with pytest.warns(RuntimeWarning, match="cannot be read .*; measure again with `ovseg doctor --dtype`"):
        assert choose(CPU, torch.float32, "abc", SETTINGS) == (torch.float32, [])
    store(measured())
    assert find("abc", SETTINGS) == measured()


def test_no_share_reads_like_more_than_it_is():
    assert percent(0.9999999) == "99.999 %" and percent(1) == "100.000 %" and percent(0.998999) == "99.899 %"


def test_what_linux_says_of_the_processor():
    assert isinstance(processor(), str) and all(feature.strip() for feature in cpu_features())
