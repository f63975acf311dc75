"""Recipes that learn from masks: a few steps on the embedded CLIP move it, and their options are looked at."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ovseg.engine import run
from ovseg.errors import ConfigError
from ovseg.meta_arch.tuned_clip.recipes.labelled import Labelled
from ovseg.meta_arch.tuned_clip.recipes.region_text import RegionText


def train(name, folder, data, **options):
    changes = {
        "OUTPUT_DIR": str(folder),
        "DATASETS": {"TRAIN": (str(data),), "TEST": (), "VOCABULARY": ""},
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"MIN_SIZE_TRAIN": (40,), "MAX_SIZE_TRAIN": 64, "CROP": {"SIZE": [40, 40]}},
        "SOLVER": {"MAX_ITER": 3, "WARMUP_ITERS": 1, "IMS_PER_BATCH": 2},
        "MODEL": {"RECIPE": {"OPTIONS": options}},
    }
    run.train(f"{name}/{name}_mini_scenes.yaml", changes)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("labelled", {}),
        ("labelled", {"ALIGNMENT": "logits", "MARGIN": 0.0}),
        ("labelled", {"ALIGNMENT": "probabilities", "RESIDUAL": 2.0}),
        ("region_text", {}),
    ],
)
def test_a_few_steps(name, options, tmp_path, own_data):
    state = train(name, tmp_path / "run", own_data, **options)
    assert all(value.isfinite().all() for value in state.values())
    assert (tmp_path / "run/clip").is_dir()
    assert any(torch.is_floating_point(value) for value in state.values())


def test_options():
    with pytest.raises(ConfigError, match="residual is -1"):
        Labelled(residual=-1)
    with pytest.raises(ConfigError, match="least is 2"):
        RegionText(least=2)
