"""Two versions in turn, on tiny models: this checkout beside itself, in real processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))
import benchmark
import benchmarks.beside as tool
import benchmarks.spread_weights as spread

from ovseg.system import precision
from tests.tools.benchmarks.test_models import configs  # noqa: F401

ROOT = Path(__file__).parents[3]


def test_a_folder_without_a_checkout_is_refused(tmp_path, capsys):
    assert benchmark.main(["models", "--against", str(tmp_path)]) == 2
    assert "expected a checkout: git worktree add" in capsys.readouterr().err
    assert benchmark.main(["models", "--against", str(ROOT), "--rows", "dog"]) == 2


@pytest.mark.parametrize("name", ["san", "fcclip"])
def test_spread_weights_show_several_classes(name, configs, tmp_path):  # noqa: F811
    image = spread.photograph(tool.IMAGE, 96)
    spread.write_weights(configs[name], image, tmp_path / "model.pt")
    model = benchmark.benchmarks.models.import_stages().build(configs[name])
    model.load_state_dict(torch.load(tmp_path / "model.pt")["model"])
    masks = model.encode([image]).images[0].masks
    assert masks.std().item() == pytest.approx(spread.MASK_SPREAD, rel=0.01)
    assert 0.05 < (masks > 0).float().mean() < 0.95


@pytest.mark.slow
@pytest.mark.skipif(not precision.has_units(), reason="the processor multiplies no bfloat16")
def test_both_sides_are_measured_in_turn(monkeypatch, configs, tmp_path, capsys):  # noqa: F811
    monkeypatch.setattr(tool, "SIZE", 96)
    monkeypatch.setattr(tool, "SHIPPED", configs)
    monkeypatch.setattr(tool, "config_root", lambda: Path("/"))
    monkeypatch.setattr(tool, "ROWS", (tool.Row("san", 5, "labels"), tool.Row("fcclip", 5, "everything")))
    path = tmp_path / "beside.json"
    assert benchmark.main(["models", "--against", str(ROOT), "--repeats", "2", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [row["row"] for row in rows] == ["san, 5 classes, labels", "fcclip, 5 classes, everything"]
    for row in rows:
        assert list(row["sides"]) == ["other", "fp32", "auto", "bf16"] and "dtype auto is" in row["decision"]
        for side in row["sides"].values():
            assert len(side["seconds"]) == len(side["processor"]) == 2 and side["memory"] >= 0
        assert row["sides"]["fp32"]["same"]["labels"] == 1
        assert row["sides"]["bf16"]["dtype"] == "torch.bfloat16"
        assert ("segments" in row["sides"]["fp32"]["same"]) == row["row"].startswith("fcclip")
    assert "this checkout beside another, 2 rounds" in capsys.readouterr().out
    with Image.open(tool.IMAGE) as image:
        assert min(image.size) > 96  # it was made smaller
