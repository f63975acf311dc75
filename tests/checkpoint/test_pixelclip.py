"""Checkpoints of PixelCLIP: the CLIP is taken out of the training that holds it twice."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from ovseg.checkpoint.clip_files import bare
from ovseg.checkpoint.pixelclip import CLIP, PROMPTS, is_pixelclip
from ovseg.errors import WeightsError
from tests.conftest import _conv_clip, write_vit_clip

BESIDE = {PROMPTS: torch.zeros(4, 2, 32), "head.0.weight": torch.zeros(3), "dino.blocks.0.norm1.weight": torch.ones(2)}
CONVNEXT = {"timm_model_name": "convnext_atto", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "mlp"}


def of_training(clip):
    slow = {f"teacher_encoder.{key.removeprefix('visual.')}": value for key, value in clip.items() if "visual" in key}
    return {**{CLIP + key: value for key, value in clip.items()}, **slow, **BESIDE}


@pytest.mark.parametrize("kind", ["vit", "convnext"])
def test_the_clip_is_taken_and_the_rest_is_said(tmp_path, kind):
    vision = {**CONVNEXT, "image_size": 64}
    folder = tmp_path / "clip"
    folder = write_vit_clip(folder, 2, seed=4) if kind == "vit" else _conv_clip_in(folder, vision)
    clip = load_file(folder / "open_clip_model.safetensors")
    state = of_training(clip)
    assert is_pixelclip(state) and not is_pixelclip(clip)
    found = bare({"model": state}, "a.pth")
    assert found.tensors.keys() == clip.keys()
    assert all(found.tensors[key].equal(value) for key, value in clip.items())
    assert "left out what a training keeps beside it: teacher_encoder." in " ".join(found.notes)


def _conv_clip_in(folder, vision):
    folder.mkdir()
    return _conv_clip(folder, vision)


def test_a_strange_tensor_stays_for_the_strict_loading_to_refuse(tmp_path):
    clip = load_file(write_vit_clip(tmp_path / "clip", 1, seed=4) / "open_clip_model.safetensors")
    found = bare({**of_training(clip), "sem_seg_head.other.weight": torch.ones(1)}, "a.pth")
    assert found.tensors.keys() - clip.keys() == {"sem_seg_head.other.weight"}


def test_two_clips_without_learnable_words_are_refused(tmp_path):
    clip = load_file(write_vit_clip(tmp_path / "clip", 1, seed=4) / "open_clip_model.safetensors")
    twice = {start + key: value for start in ("first.", "second.") for key, value in clip.items()}
    assert not is_pixelclip(twice)
    with pytest.raises(WeightsError, match="several CLIPs"):
        bare(twice, "a.pth")
