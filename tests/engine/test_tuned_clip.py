"""A training that tunes CLIP itself, both of its towers: killed, resumed and used by its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import ovseg
from ovseg.engine.exporting import export_checkpoint
from ovseg.errors import ConfigError
from tests.conftest import write_vit_clip
from tests.engine.conftest import curve, killed_at
from tests.meta_arch.models import settings, shipped

Train = Callable[..., Path]


@pytest.fixture
def own_clip(tmp_path: Path) -> Path:
    """A tiny CLIP of four blocks."""
    return write_vit_clip(tmp_path / "clip", 4, seed=9)


@pytest.fixture
def config(tmp_path: Path, own_clip: Path, own_data: Path) -> Path:
    """A config that trains a tiny CAT-Seg on `own_data` into ``run`` beside it."""
    path = tmp_path / "cat_seg.yaml"
    whole = {
        "_BASE_": str(shipped("cat_seg")),
        "VERSION": 2,
        **settings("cat_seg", own_clip, SLIDING=False),
        "DATASETS": {"TRAIN": [str(own_data)], "TEST": []},
        "INPUT": {"MIN_SIZE_TRAIN": [32, 40], "CROP": {"SIZE": [32, 32]}},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": {"BASE_LR": 0.01, "MAX_ITER": 8, "IMS_PER_BATCH": 2, "CHECKPOINT_PERIOD": 3, "LOG_PERIOD": 2},
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path


@pytest.mark.parametrize("way", ["config", "folder"])
def test_killed_and_resumed_it_is_the_same(
    train: Train, config: Path, monkeypatch: pytest.MonkeyPatch, own_clip: Path, way: str, photo: Path
) -> None:
    whole = train("whole", config=config)
    with monkeypatch.context() as patch:
        killed_at(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train("part", config=config)
    export_checkpoint(whole.parent / "part")
    part = train("part", resume=True, config=config if way == "config" else whole.parent / "part")
    assert curve(part) == curve(whole) and len(set(curve(whole))) == 8
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, part))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    weights = own_clip / "open_clip_model.safetensors"
    state = load_file(weights)
    save_file({**state, "visual.conv1.weight": state["visual.conv1.weight"] + 0.01}, weights)
    with pytest.raises(ConfigError, match=r"was made of something else: frozen weights: were "):
        train("part", resume=True, config=config)
    save_file(state, weights)
    tuned = {key for key in first if key.startswith("clip.")}
    assert tuned and all(key.endswith(("q_proj_weight", "v_proj_weight")) for key in tuned)
    assert any(".visual." in key for key in tuned) and any(".visual." not in key for key in tuned)
    one, other = (ovseg.load(folder, "cpu") for folder in (whole, part))
    assert one.model.weights_hash == other.model.weights_hash
    assert (one(photo, "glorp, blix").labels == other(photo, "glorp, blix").labels).all()
