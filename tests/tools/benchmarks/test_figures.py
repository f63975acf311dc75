"""Figures with limits: what is printed, written, compared and failed on; and benchmarks that report by them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.folder
import benchmarks.startup
import benchmarks.training_free as tool
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report

from ovseg.errors import InputError
from ovseg.refinement import pamr


def arguments(*words):
    parser = argparse.ArgumentParser()
    add_report_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_limits_files_and_comparison(tmp_path, capsys):
    path = tmp_path / "numbers.json"
    good = [Figure("time", 2.0, "units", 6.5), Figure("busy", 95, "%", 90, at_least=True), Figure("free", 1, "s")]
    assert report("title", good, arguments("--json", path), {}) == 0
    before = check_report_arguments(arguments("--compare", path))
    assert before == {"time": 2.0, "busy": 95.0, "free": 1.0}
    capsys.readouterr()
    assert report("title", [Figure("time", 7.0, "units", 6.5), Figure("new", 1, "s")], arguments(), before) == 1
    printed = capsys.readouterr().out
    assert "FAIL time: 7 units; expected at most 6.5" in printed and "before" in printed
    assert report("title", [Figure("busy", 12, "%", 90, at_least=True)], arguments(), {}) == 1


def test_a_file_that_is_no_report(tmp_path):
    (tmp_path / "numbers.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(InputError, match="expected a file of --json"):
        check_report_arguments(arguments("--compare", tmp_path / "numbers.json"))


@pytest.mark.parametrize("name", ["training-free", "vocabulary", "startup", "folder"])
def test_subcommands(name):
    args = benchmark.parse_args([name, "--json", "numbers.json"])
    assert args.run is benchmark.WITH_FIGURES[name].run and args.json == Path("numbers.json")


def test_the_plain_form_of_pamr_is_pamr(monkeypatch):
    monkeypatch.setattr(tool, "OUTPUT", (24, 40))
    image, maps = tool.pamr_inputs(3)
    expected = pamr(image, maps, tool.STEPS, tool.DILATIONS)[0].argmax(0)
    assert torch.equal(tool.plain_pamr(tool.Task("PAMR", 3, 1)), expected)


def test_start_up_of_the_help():
    assert 0 < benchmarks.startup.seconds(["--help"]) < 60


def test_photos_for_a_folder(tmp_path):
    benchmarks.folder.make_photos(tmp_path / "many", 2, 64)
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == ["0000.jpg", "0001.jpg"]
