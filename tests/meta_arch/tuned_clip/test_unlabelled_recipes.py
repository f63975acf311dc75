"""DeCLIP's and PixelCLIP's recipes: two steps on the embedded CLIP move what they tune, and leave a CLIP that loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from ovseg.clip import ClipSource, load_tower
from ovseg.engine import run
from ovseg.errors import ConfigError
from ovseg.meta_arch.tuned_clip.recipes.declip import DeCLIP
from ovseg.meta_arch.tuned_clip.recipes.pixelclip import PixelCLIP

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def guide(tmp_path):
    """A small backbone of random weights, as the guide of DeCLIP and the groups of PixelCLIP."""
    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    return f"timm:test_vit@{tmp_path / 'teacher.safetensors'}#stride=16"


def train(name, folder, data, **options):
    """Train for two steps, and return by names how the CLIP that is left differs from the embedded one."""
    changes = {
        "OUTPUT_DIR": str(folder),
        "DATASETS": {"TRAIN": (str(data),), "TEST": (), "VOCABULARY": ""},
        "INPUT": {"MIN_SIZE_TRAIN": (40,), "MAX_SIZE_TRAIN": 64, "CROP": {"SIZE": [40, 40]}},
        "SOLVER": {"MAX_ITER": 2, "WARMUP_ITERS": 1, "IMS_PER_BATCH": 2},
        "MODEL": {"RECIPE": {"OPTIONS": {"SIDE": 64, **options}}},
    }
    run.train(str(ROOT / f"configs/{name}/{name}_mini_scenes.yaml"), changes)
    before = load_tower(ClipSource(folder="mini")).model.state_dict()
    after = load_tower(ClipSource(folder=str(folder / "clip"))).model.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    return [key for key, value in after.items() if not torch.equal(value, before[key])]


@pytest.mark.parametrize("guided", [True, False])
def test_declip(tmp_path, own_data, guide, guided):
    options = {"GUIDE": guide} if guided else {"CONTEXT": 0.0}
    moved = train("declip", tmp_path / "run", own_data, BOXES=3, SPLIT=2, **options)
    assert moved and all(key.startswith("visual.") for key in moved)


@pytest.mark.parametrize("grouped", [True, False])
def test_pixelclip(tmp_path, own_data, guide, grouped):
    options = {"MASKS": guide, "GROUPS": 3} if grouped else {}
    moved = train("pixelclip", tmp_path / "run", own_data, CLUSTERS=4, MASK_SIDE=32, **options)
    assert moved and all("attn" in key or "position" in key for key in moved)


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (DeCLIP, {"mode": "csa"}, "mode is 'csa'"),
        (DeCLIP, {"context": -1.0}, "context is -1"),
        (PixelCLIP, {"clusters": 1}, "clusters is 1"),
        (PixelCLIP, {"tuned": "all"}, "tuned is 'all'"),
    ],
)
def test_options(recipe, options, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**options)
