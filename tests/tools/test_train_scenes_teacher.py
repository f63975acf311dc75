"""The small backbone that stands in for DINO: two steps leave weights that the guide reads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import timm
from safetensors.torch import load_file

from ovseg.errors import ConfigError, InputError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_scenes_teacher", ROOT / "tools/train_scenes_teacher.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_steps(script, own_data, tmp_path):
    small = {"steps": 2, "batch": 2, "side": 48, "crop": 32, "prototypes": 8}
    options = [part for name, value in small.items() for part in (f"--{name}", str(value))]
    script.main([str(own_data), "--output", str(tmp_path / "run"), *options])
    lines = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1] and all(line["loss"] > 0 for line in lines)
    timm.create_model("test_vit", num_classes=0).load_state_dict(load_file(tmp_path / "run/teacher.safetensors"))


def test_mistakes(script, tmp_path):
    with pytest.raises(ConfigError, match="--steps is 0"):
        script.parse_args([str(tmp_path), "--steps", "0"])
    with pytest.raises(InputError, match="no images below"):
        script.read_pictures(tmp_path, 32)
