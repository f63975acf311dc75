"""The benchmark of whole models against limits, on tiny ones: what it measures, compares, writes and fails on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.common
import benchmarks.limits as tool

from ovseg.clip import ViTClip
from ovseg.ops.linear_layers import can_pack
from tests.tools.benchmarks.test_models import configs  # noqa: F401

pytestmark = pytest.mark.skipif(not can_pack(), reason="this PyTorch has no packed layers")


@pytest.fixture(autouse=True)
def here(monkeypatch, tiny_clip, configs) -> None:  # noqa: F811
    """Measure tiny models in this process."""
    monkeypatch.setattr(tool, "in_fresh_process", lambda measure, case, *_: measure(case))
    monkeypatch.setattr(benchmarks.common, "random_clip", lambda arch, size: ViTClip.from_folder(tiny_clip))
    monkeypatch.setattr(benchmarks.common, "UNIT_SIZE", 32)
    rows = [
        tool.Row("tiny SAN", configs["san"], 5, (64, 64), (64, 64), 1e6, 10**6, 826),
        tool.Row("tiny SAN, wide", configs["san"], 40, (64, 90), (70, 100), 1e6, 10**6, 826),
        tool.Row("tiny FC-CLIP", configs["fcclip"], 5, (64, 64), (64, 64), 1e6, None, 2495, True),
    ]
    monkeypatch.setattr(tool, "shipped_rows", lambda: rows)


def test_every_mode_is_measured_and_compared(tmp_path, capsys):
    path = tmp_path / "models.json"
    assert benchmark.main(["models", "--repeats", "1", "--json", str(path)]) == 0
    figures = {figure["name"]: figure for figure in json.loads(path.read_text())["figures"]}
    assert len(figures) == 3 * (4 + 2)
    for row in ("tiny SAN", "tiny SAN, wide", "tiny FC-CLIP"):
        labels = figures[f"{row}: labels of a plain path"]
        assert labels["value"] >= 99.9 and labels["limit"] == 99.9
        assert all(figure["limit"] is None for name, figure in figures.items() if "bf16" in name or "packed" in name)
    assert benchmark.main(["models", "--repeats", "1", "--rows", "wide", "--compare", str(path)]) == 0
    assert "before" in capsys.readouterr().out


def test_objects_are_made_without_the_map_of_every_class(monkeypatch):
    from ovseg.labelling import objects

    monkeypatch.setattr(objects, "labels_and_maps", lambda *_: pytest.fail("maps of every class were made"))
    row = tool.shipped_rows()[2]
    model = tool.build(row.config, "fp32")
    answer, seconds = tool.run_once(model, tool.prepare(model, row), row.output)
    assert answer.labels.shape == (64, 64) and seconds > 0
    assert answer.panoptic.segments and answer.instances and answer.class_scores is None


def test_discs_and_names_are_put_into_what_the_model_keeps_and_nowhere_else():
    row = tool.shipped_rows()[2]
    model = tool.build(row.config, "fp32")
    scene = tool.prepare(model, row)
    own = model.encode([scene.image])
    shown = tool.with_discs(own, scene.words).images[0]
    assert shown.masks.shape == own.images[0].masks.shape and shown.padded == own.images[0].padded
    inside = (shown.masks > 0).float().mean((1, 2))
    assert 0 < inside.min() and inside.max() < 0.5
    for found in (shown.embeddings, shown.pooled):
        best = (found @ scene.words.embeddings.T).amax(1)
        assert found.norm(dim=1).sub(1).abs().max() < 0.3 and best.min() > 0.14


def test_a_limit_that_does_not_hold_fails(monkeypatch, capsys):
    row = tool.shipped_rows()[0]
    monkeypatch.setattr(tool, "shipped_rows", lambda: [tool.replace(row, units=0.0)])
    assert benchmark.main(["models", "--repeats", "1", "--modes", "fp32"]) == 1
    assert "FAIL tiny SAN, fp32" in capsys.readouterr().out
    assert benchmark.main(["models", "--repeats", "1", "--modes", "bf16"]) == 0


@pytest.mark.parametrize("given", [["--modes", "fp33"], ["--rows", "SAM"]])
def test_mistakes_are_one_line(given, capsys):
    assert benchmark.main(["models", *given]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_labels_that_are_compared_are_many_and_a_wrong_one_is_noticed(monkeypatch):
    row = tool.shipped_rows()[1]
    (found,) = tool.measure_time(tool.Case((row,), "fp32", 1))
    assert found.same == 1
    plain = tool.plain_labels

    def one_row_wrong(*arguments):
        labels = plain(*arguments).clone()
        assert len(labels.unique()) > 3
        labels[0] += 1
        return labels

    monkeypatch.setattr(tool, "plain_labels", one_row_wrong)
    (found,) = tool.measure_time(tool.Case((row,), "fp32", 1))
    assert found.same == pytest.approx(1 - 1 / 70)
