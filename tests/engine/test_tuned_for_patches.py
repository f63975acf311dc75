"""A training that tunes a CLIP by a recipe: killed, resumed, and what it leaves taken by every method."""

from __future__ import annotations

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ovseg.clip import ClipSource, load_tower
from ovseg.config import load_config
from ovseg.errors import ConfigError, OvsegError, UnknownNameError
from ovseg.meta_arch.tuned_clip import TunedClip
from ovseg.meta_arch.tuned_clip.recipes import RECIPES
from ovseg.recalibration import list_recalibrations, recalibration_class
from ovseg.system.registry import build
from tests.conftest import write_vit_clip
from tests.engine.conftest import curve, killed_at


@pytest.fixture
def own_clip(tmp_path):
    """A tiny CLIP of four blocks."""
    return write_vit_clip(tmp_path / "clip", 4, seed=9)


def config_of(tmp_path, clip, data, **options):
    path = tmp_path / "tuned.yaml"
    model = {
        "META_ARCHITECTURE": "TunedClip",
        "DEVICE": "cpu",
        "CLIP": {"FOLDER": str(clip)},
        "RECIPE": {"NAME": "CLIPSelf", "OPTIONS": {"SIDE": 32, "BOXES": 3, **options}},
        "RECALIBRATION": {"NAME": "MaskCLIP"},
        "TEXT": {"TEMPLATES": "none"},
        "PROTOCOL": {"SHORT_SIDE": 32, "WINDOW": 0},
    }
    solver = {"BASE_LR": 0.001, "MAX_ITER": 6, "IMS_PER_BATCH": 2, "CHECKPOINT_PERIOD": 2, "LOG_PERIOD": 2}
    whole = {
        "VERSION": 2,
        "MODEL": model,
        "DATASETS": {"TRAIN": [str(data)], "TEST": []},
        "INPUT": {"MIN_SIZE_TRAIN": [32]},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": solver,
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path


@pytest.mark.parametrize("way", ["config", "folder"])
def test_killed_and_resumed_it_is_the_same(train, own_clip, own_data, tmp_path, monkeypatch, way):
    config = config_of(tmp_path, own_clip, own_data)
    whole = train("whole", config=config)
    with monkeypatch.context() as patch:
        killed_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train("part", config=config)
    part = train("part", resume=True, config=config if way == "config" else whole.parent / "part")
    assert curve(part) == curve(whole) and len(set(curve(whole))) == 6
    for name in ("model.safetensors", "clip/open_clip_model.safetensors"):
        first, second = (load_file(folder / name) for folder in (whole, part))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_what_is_left_is_a_share_of_student_and_original(train, own_clip, own_data, tmp_path):
    full, half = (train(f"a{a}", config=config_of(tmp_path, own_clip, own_data, ALPHA=a)) for a in (1.0, 0.5))
    before = load_tower(ClipSource(folder=str(own_clip))).model.state_dict()
    first, second = (load_file(folder / "clip/open_clip_model.safetensors") for folder in (full, half))
    moved = [key for key, value in first.items() if not torch.equal(value, before[key])]
    assert moved and all(key.startswith("visual.transformer.resblocks.") for key in moved)
    for key in moved:
        torch.testing.assert_close(second[key], before[key].lerp(first[key], 0.5))


def test_the_clip_that_is_left_loads_under_every_method_that_the_original_fits(train, own_clip, own_data, tmp_path):
    left = train("run", config=config_of(tmp_path, own_clip, own_data)) / "clip"
    clip, before = (load_tower(ClipSource(folder=str(folder))) for folder in (left, own_clip))
    assert clip.weights_hash != before.weights_hash and clip.has == before.has
    assert clip.text(["a cat"]).equal(before.text(["a cat"]))
    fitting = [name for name in list_recalibrations() if recalibration_class(name).requires <= before.has]
    assert len(fitting) > 10
    for name in fitting:
        assert load_tower(ClipSource(folder=str(left)), recalibration_class(name).requires, name).depth == 4


@pytest.mark.parametrize(
    ("options", "words"), [({"BLOCKS": 9}, "blocks is 9"), ({"ALPHA": 2.0}, "alpha is 2"), ({"SIZE": 3}, "side")]
)
def test_mistakes_are_said(own_clip, own_data, tmp_path, options, words):
    cfg = load_config(config_of(tmp_path, own_clip, own_data, **options))
    with pytest.raises(OvsegError, match=words):
        TunedClip(cfg)


def test_recipes_are_found_by_their_names():
    assert build(RECIPES, "clipself", {"blocks": 2}).blocks == 2
    with pytest.raises(UnknownNameError, match="CLIPSelf"):
        build(RECIPES, "CLIPSelv")
    with pytest.raises(ConfigError, match="split"):
        build(RECIPES, "CLIPSelf", {"split": 0})
