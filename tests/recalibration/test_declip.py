"""DeCLIP's last block, by hand: what is compared is multiplied with itself, and decides how values are mixed."""

from __future__ import annotations

import math

import pytest
import torch

from ovseg.clip import ClipSource, load_tower
from ovseg.recalibration import build_recalibration


def by_hand(mode, parts):
    q, k, v = parts
    scale = 1 / math.sqrt(q.shape[-1])
    gram = {name: part @ part.transpose(-1, -2) * scale for name, part in zip("qkv", (q, k, v), strict=True)}
    if mode == "csa":
        return (gram["q"].softmax(-1) + gram["k"].softmax(-1)) @ v
    if mode == "all":
        return ((gram["q"] + gram["k"] + gram["v"]) / 3).softmax(-1) @ v
    return gram[mode[0]].softmax(-1) @ v


@pytest.mark.parametrize("mode", ["qq", "kk", "vv", "csa", "all"])
def test_the_sums(tiny_clip, mode):
    clip = load_tower(ClipSource(folder=str(tiny_clip)))
    method, images = build_recalibration("declip", mode=mode), torch.randn(2, 3, 32, 40)
    dense = clip.dense(images, method)
    block = clip.blocks[-1]
    parts = block.qkv(clip.tower.embed(images, "bicubic")[0])
    mixed = by_hand(mode, parts)
    torch.testing.assert_close(method.attention(*parts, dense.context), mixed, atol=1e-5, rtol=1e-4)
    assert not method.residual and not method.feed_forward
