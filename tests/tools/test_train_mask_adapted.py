"""The tool that adapts a CLIP to masked pictures: what it writes loads."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.clip import ClipSource, load_tower
from ovseg.clip.mask_prompts import MaskPrompts
from ovseg.clip.tokens import STREAM

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    spec = importlib.util.spec_from_file_location("train_mask_adapted", TOOLS / "train_mask_adapted.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train_mask_adapted", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    """Two pictures of two halves each, in the layout of COCO's panoptic annotations."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "panoptic").mkdir()
    ids = np.zeros((40, 40, 3), np.uint8)
    ids[:, :20, 0], ids[:, 20:, 0] = 1, 2
    images, annotations = [], []
    for index in range(2):
        Image.fromarray(np.where(ids[..., :1] == 1, 200, 30 + index).repeat(3, 2).astype(np.uint8)).save(
            folder / f"images/{index}.png"
        )
        Image.fromarray(ids).save(folder / f"panoptic/{index}.png")
        images.append({"id": index, "file_name": f"{index}.png"})
        segments = [{"id": one, "category_id": one} for one in (1, 2)]
        annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
    categories = [{"id": 1, "name": "cup", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
    found = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "panoptic.json").write_text(json.dumps(found))
    return folder


@pytest.mark.slow
def test_prompts_and_clips_load(tool, data, tmp_path, capsys):
    start = load_tower(ClipSource(folder="mini"), {STREAM}, "a test")
    for stage in ("prompts", "clip"):
        more = ["--stage", stage, "--steps", "2", "--batch", "4", "--output", str(tmp_path / stage)]
        assert tool.main([str(data), *more, "--test", str(data), "--limit", "4"]) == 0
    assert "of masks named right before" in capsys.readouterr().out
    prompts = MaskPrompts.read(tmp_path / "prompts" / "prompts.safetensors", start)
    assert prompts.depth == 3 and bool(prompts.embedding.any())
    adapted = load_tower(ClipSource(folder=str(tmp_path / "clip")), {STREAM}, "a test")
    assert torch.equal(adapted.text(["cup"]), start.text(["cup"])) and adapted.weights_hash != start.weights_hash


def test_mistakes_are_told(tool, tmp_path, capsys):
    assert tool.main([str(tmp_path)]) == 2
    assert "panoptic.json" in capsys.readouterr().err
