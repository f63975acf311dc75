"""The check of manifests: what it prints for those that load, those that do not, and wrong arguments."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovseg.errors import WeightsError
from ovseg.recalibration.segearth_ov.upsamplers import Upsampler
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


def test_a_manifest_may_say_which_file_it_is_of(tool, tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"state_dict": {"weight": [2, "float32"]}, "released_as": "tiny_b.pth (a page)"}))
    assert tool.main([str(path)]) == 0
    assert capsys.readouterr().out == "PASS other 1 tensors\n"
    path.write_text(json.dumps({"state_dict": {"weight": [2, "float32"]}, "released_as": "my_tiny_b.pth"}))
    assert tool.main([str(path)]) == 1


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


def test_wrong_arguments(tool, tmp_path, capsys):
    assert tool.main([str(tmp_path / "none.json")]) == 2
    assert tool.main([str(tmp_path)]) == 2
    assert "holds no manifest" in capsys.readouterr().err
    (tmp_path / "tiny_c.json").write_text("{}")
    assert tool.main([str(tmp_path)]) == 1
    assert "FAIL tiny_c" in capsys.readouterr().out


def test_parts_of_methods_are_read_by_the_option_that_takes_them(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("check_manifest", ROOT / "tools/check_manifest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.parts()["clip_jbu_stack_cocostuff"] == ("segearth_ov", "UPSAMPLER")
    name = tmp_path / "xclip_jbu_one_million_aid.json"
    state = {f"upsampler.{key}": [*value.shape, "float32"] for key, value in Upsampler(6, 1).state_dict().items()}
    assert module.main([write(name, **state)]) == 0
    assert capsys.readouterr().out == "PASS xclip_jbu_one_million_aid 12 tensors\n"
    state["upsampler.more"] = [1, "float32"]
    assert module.main([write(name, **state)]) == 1
    assert "has unexpected more" in capsys.readouterr().out
