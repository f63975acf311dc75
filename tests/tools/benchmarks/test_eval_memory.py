"""The benchmark of the memory of a whole evaluation, on a tiny model: what it runs, writes and fails on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.eval_memory as tool

from ovseg.errors import EnvironmentProblem
from ovseg.evaluation.runs.plan import Plan
from tests.tools.benchmarks.test_models import configs  # noqa: F401


@pytest.fixture(autouse=True)
def here(monkeypatch) -> None:
    """Measure small photographs in this process."""

    def call(measure, case, what, environment):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return measure(case)

    monkeypatch.setattr(tool, "in_fresh_process", call)
    monkeypatch.setattr(tool, "SIZE", (60, 90))
    monkeypatch.setattr(tool, "REGIONS", 5)


@pytest.fixture
def arguments(configs) -> list[str]:  # noqa: F811
    return ["eval-memory", "--config", configs["fcclip"], "--classes", "30"]


def test_both_evaluations_run_and_their_parts_are_told(arguments, tmp_path, capsys):
    path = tmp_path / "memory.json"
    assert benchmark.main([*arguments, "--json", str(path)]) == 0
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    for name, limit in (("labels", 700), ("labels, PQ and AP", 1200)):
        whole = figures[f"{name}: over the loaded model"]
        parts = ("reads", "encodes", "answers", "measures", "writes labels")
        assert whole["limit"] == limit and whole["unit"] == "MB"
        assert whole["value"] >= max(figures[f"{name}: while it {part}"]["value"] for part in parts)
        assert figures[f"{name}: model, per image"]["value"] > 0
    assert "30 classes, 2 images of 90x60" in " ".join(capsys.readouterr().out.split())


def test_a_limit_that_does_not_hold_fails(arguments, capsys):
    assert benchmark.main([*arguments, "--images", "1", "--objects-limit", "-1000"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL labels, PQ and AP: over the loaded model" in printed and "FAIL labels:" not in printed


def test_it_is_the_whole_evaluation_of_the_whole_model(arguments, tmp_path, monkeypatch):
    """All masks of the checkpoint take part, labels alone are asked for where no more is measured."""
    seen = []
    load = Plan.load

    def noted(plan, device):
        segmenter = load(plan, device)
        seen.append((plan, segmenter))
        return segmenter

    monkeypatch.setattr(Plan, "load", noted)
    assert benchmark.main(arguments) == 0
    (first, segmenter), (second, _) = seen
    assert segmenter.model.rule.object_threshold == 0 and segmenter.model.decoder.query_feat.num_embeddings == 6
    assert first.tasks == ("semantic",) and second.tasks == ()
    assert Path(first.overrides["MODEL"]["WEIGHTS"]).name == "model.pt" and first.model == second.model == arguments[2]


def test_an_image_that_cannot_be_evaluated_is_no_result(arguments, monkeypatch):
    make = tool.make_dataset

    def broken(folder, classes, images):
        make(folder, classes, images)
        (folder / "images/0.jpg").write_bytes(b"no picture")

    monkeypatch.setattr(tool, "make_dataset", broken)
    with pytest.raises(EnvironmentProblem, match=r"did not run as it should .*0\.jpg"):
        tool.run(benchmark.parse_args(arguments))


def test_compiled_operators_are_found_in_the_cache_of_the_evaluation(arguments, monkeypatch, tmp_path, capsys):
    library = tmp_path / "operators.so"
    library.write_bytes(b"kernels")
    seen = []
    monkeypatch.setattr(tool, "load_kernels", lambda: library)
    monkeypatch.setattr(tool, "measure", lambda case: seen.append(case) or tool.Found(1, {"reads": 1}, 1.0))
    monkeypatch.setattr(
        tool, "make_model", lambda case: seen.append((case.work / "cache/ops/operators.so").read_bytes())
    )
    assert benchmark.main(arguments) == 0
    assert seen[0] == b"kernels" and len(seen) == 3
    assert "compiled operators" in " ".join(capsys.readouterr().out.split())


def test_a_text_tower_that_is_asked_is_no_result(arguments, monkeypatch):
    monkeypatch.setattr(tool, "remember", lambda *_: None)
    with pytest.raises(EnvironmentProblem, match="asks the text tower"):
        tool.run(benchmark.parse_args(arguments))
