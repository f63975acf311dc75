"""SILC: a few steps on the embedded CLIP, its teacher follows slowly, and captions are learnt where there are any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ovseg
from ovseg.data.multi_crops import MultiCrops
from ovseg.engine import run
from ovseg.errors import ConfigError
from ovseg.losses.self_distillation import view_agreement
from ovseg.meta_arch.tuned_clip.recipes.silc import SILC


def test_a_few_steps(tmp_path, own_data):
    changes = {
        "OUTPUT_DIR": str(tmp_path / "run"),
        "DATASETS": {"TRAIN": (str(own_data),), "TEST": (), "VOCABULARY": ""},
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"MIN_SIZE_TRAIN": (40,), "MAX_SIZE_TRAIN": 64},
        "SOLVER": {"MAX_ITER": 3, "WARMUP_ITERS": 1, "IMS_PER_BATCH": 2},
        "MODEL": {"RECIPE": {"OPTIONS": {"LOCAL": 2, "PROTOTYPES": 16}}},
    }
    run.train("silc/silc_mini_scenes.yaml", changes)
    state = load_file(tmp_path / "run/model.safetensors")
    assert all(value.isfinite().all() for value in state.values())
    assert (tmp_path / "run/clip").is_dir()


@pytest.fixture
def mini():
    return ovseg.load("mini-clearclip", "cpu").model.clip


def test_captions_are_learnt_where_there_are_any(mini):
    recipe = SILC(local=1, prototypes=8, momentum=0.5)
    recipe.begin(mini)
    for parameter in recipe.parameters_of(mini):
        parameter.requires_grad_(True)
    rng, cut = np.random.default_rng(0), recipe.view(mini)
    image = torch.from_numpy(rng.integers(0, 256, (3, 40, 50), np.uint8))
    batch = [{"caption": text, **cut({"image": image}, rng)} for text in ("a dog", "a tree", "")]
    found = recipe.losses(mini, mini, batch, None)
    assert set(found) == {"loss_views", "loss_captions"}
    sum(found.values()).backward()
    weight, average = recipe._trained[0], recipe.average_0.clone()
    assert weight.grad.abs().sum() > 0 and torch.equal(weight.data, average)
    with torch.no_grad():
        weight += 1
        recipe.after_step(mini, 0, 2)
    torch.testing.assert_close(recipe.average_0, average + 0.5)
    assert set(recipe.losses(mini, mini, [{**one, "caption": ""} for one in batch], None)) == {"loss_views"}


def test_a_view_does_not_teach_itself():
    logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])
    assert view_agreement(logits, logits, 1.0, 1.0) > 8 > 0.1 > view_agreement(logits, logits.flip(1), 1.0, 1.0)


def test_crops_and_options():
    crops = MultiCrops(32, (0.5,) * 3, (0.5,) * 3, 3)({"image": torch.zeros(3, 20, 30)}, np.random.default_rng(0))
    assert crops["large"].shape == (2, 3, 32, 32) and crops["small"].shape == (3, 3, 32, 32)
    with pytest.raises(ConfigError, match="momentum is -1"):
        SILC(momentum=-1)
