"""Both stages of the training of an adapter, as `ovseg train` runs them: from a head, killed and resumed, one file."""

from __future__ import annotations

import filecmp
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

import ovseg
from ovseg.checkpoint.trained import save_trained, trained_state
from ovseg.engine import run
from ovseg.errors import ConfigError
from tests.engine.conftest import curve, killed_at
from tests.meta_arch import models

STAGES = {
    "warm": {"ADAPTER_STAGE": "ground-truth", "ADAPTER_TRUE_MASKS": 3},
    "mixed": {"ADAPTER_TRUE_MASKS": 2, "ADAPTER_MATCHED_MASKS": 2, "ADAPTER_OVERLAP": 0.05},
}


@pytest.fixture
def config(panoptic_config, tmp_path, tiny_convnext):
    """A config that trains an adapter on `panoptic_data`; the head that it stands on has known other words."""
    head = models.stirred(models.build("fcclip", tiny_convnext), 1)
    save_trained(trained_state(head), tmp_path / "head.safetensors")
    whole = yaml.safe_load(panoptic_config.read_text())
    own = models.settings("fcclip_adapter", tiny_convnext, ADAPTER_WIDTH=24, ADAPTER_MAPS=3)
    whole |= {"_BASE_": str(models.shipped("fcclip_adapter")), **own}
    whole["SOLVER"] |= {"MAX_ITER": 4, "CHECKPOINT_PERIOD": 2, "STEPS": [3]}
    path = tmp_path / "adapter.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path


def train(config, folder, stage, weights, resume=False):
    section = {"WEIGHTS": str(weights), "FCCLIP": STAGES[stage]}
    run.train(str(config), {"OUTPUT_DIR": str(folder), "MODEL": section, "DATASETS": {"TEST": ()}}, resume)
    return folder


def test_both_stages_and_a_kill_in_each(config, tmp_path, panoptic_data, monkeypatch):
    start = tmp_path / "head.safetensors"
    for stage in STAGES:
        whole = train(config, tmp_path / stage, stage, start)
        new = "head.safetensors has no adapter of masks, which is new"
        assert (new in (whole / "log.txt").read_text()) == (stage == "warm")
        assert (new in json.loads((whole / "training.json").read_text())["notes"]) == (stage == "warm")
        with monkeypatch.context() as patch:
            killed_at(patch, 3)
            with pytest.raises(KeyboardInterrupt):
                train(config, tmp_path / f"{stage}-part", stage, start)
        part = train(config, tmp_path / f"{stage}-part", stage, start, resume=True)
        assert len(curve(whole)) == 4 and curve(part) == curve(whole)
        assert filecmp.cmp(part / "model.safetensors", whole / "model.safetensors", shallow=False)
        start = whole / "model.safetensors"
    head, warm, mixed = (load_file(tmp_path / name) for name in ("head.safetensors", "warm/model.safetensors", start))
    assert all(torch.equal(warm[key], value) for key, value in head.items())
    assert {key for key, value in head.items() if not torch.equal(mixed[key], value)} == {"void.weight"}
    assert not torch.equal(mixed["adapter.fuse.weight"], warm["adapter.fuse.weight"])
    segmenter = ovseg.load(str(tmp_path / "mixed"), "cpu")
    result = segmenter(panoptic_data / "images/00.jpg")
    assert result.classes.names == ["glorp", "blix"] and result.panoptic is not None
    assert segmenter.model.settings["options"]["adapter"] is True
    assert segmenter.model.trained_names == ovseg.load(str(tmp_path / "warm"), "cpu").model.trained_names
    assert "person" in segmenter.model.trained_names  # those of the head, which learns none here


def test_without_a_head_nothing_is_trained(config, tmp_path):
    with pytest.raises(ConfigError, match=r"give those of FC-CLIP, or of a training, as MODEL.WEIGHTS"):
        train(config, tmp_path / "none", "mixed", "")
