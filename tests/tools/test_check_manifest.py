"""The check of manifests: what it prints for those that load, those that do not, and wrong arguments."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovseg.errors import WeightsError
from ovseg.zoo import list_models

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tool(monkeypatch):
    spec = importlib.util.spec_from_file_location("check_manifest", ROOT / "tools/check_manifest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seen = {}

    def load(name, config, state):
        assert config == "tiny.yaml"
        seen[name] = state
        if "wrong" in state:
            raise WeightsError(f"{name} does not fit: it has unexpected wrong")

    cards = [replace(list_models()[0], weights="released", config="tiny.yaml", file=f"tiny_{i}.pth") for i in "abc"]
    monkeypatch.setattr(module, "list_models", lambda: cards)
    monkeypatch.setattr(module, "load", load)
    module.seen = seen
    return module


def write(path, **tensors):
    path.write_text(json.dumps({"state_dict": tensors}))
    return str(path)


def test_what_it_prints(tool, tmp_path, capsys):
    good = write(tmp_path / "tiny_a.json", weight=[2, 3, "float32"], count=["int64"])
    bad = write(tmp_path / "tiny_b.json", wrong=[1, "float32"])
    write(tmp_path / "other.json", weight=[1, "float32"])
    assert tool.main([good]) == 0
    assert capsys.readouterr().out == "PASS tiny_a 2 tensors\n"
    state = tool.seen["tiny_a"]
    assert state["weight"].shape == (2, 3) and state["count"].shape == () and state["count"].dtype == torch.int64
    assert tool.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "FAIL other unknown released model 'other'; known: tiny_a, tiny_b, tiny_c",
        "PASS tiny_a 2 tensors",
        "FAIL tiny_b tiny_b does not fit: it has unexpected wrong",
    ]
    assert tool.main([good, bad]) == 1


def test_a_manifest_of_another_name_is_found_by_its_source(tool, tmp_path, monkeypatch, capsys):
    """As that of CAT-Seg, whose file is called model_base."""
    (tmp_path / "tiny.yaml").write_text("MODEL: {SOURCE: 'github.com/who/what, configs/small.yaml'}\n")
    monkeypatch.setattr(tool, "config_root", lambda: tmp_path)
    told = {"source_repo": "who/what", "config_file": "configs/small.yaml", "state_dict": {"weight": [2, "float32"]}}
    (tmp_path / "small.json").write_text(json.dumps(told))
    (tmp_path / "large.json").write_text(json.dumps({**told, "config_file": "configs/large.yaml"}))
    assert tool.main([str(tmp_path / "small.json")]) == 0 and "small" in tool.seen
    assert tool.main([str(tmp_path / "large.json")]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith("FAIL large unknown released model 'large'")


def test_wrong_arguments(tool, tmp_path, capsys):
    assert tool.main([str(tmp_path / "none.json")]) == 2
    assert tool.main([str(tmp_path)]) == 2
    assert "holds no manifest" in capsys.readouterr().err
    (tmp_path / "tiny_c.json").write_text("{}")
    assert tool.main([str(tmp_path)]) == 1
    assert "FAIL tiny_c" in capsys.readouterr().out
