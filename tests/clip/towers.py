"""Narrowed random towers of every family: one table that the tests of towers, methods and docs/towers.md share.

`TOWERS` names each family and what builds a tower of it: a function of the number of blocks (what has none ignores it)
that returns a `Tower` on the CPU in float32, a few dozen channels wide, with random weights that are the same each time
and large enough to matter (see `narrow`). A new kind of tower adds its families here and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ovseg.clip import Tower
from ovseg.clip.open_clip_internals import build_model, import_open_clip
from ovseg.clip.towers import KINDS

Builder = Callable[[int], Tower]
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
DIM = 16


def narrow(arch: str, vision: dict[str, Any], text: dict[str, Any] | None = None, **changes: Any) -> Tower:
    """Build an architecture of open_clip with few channels, by the kind of tower that its config fits.

    Args:
        arch: Its name in open_clip; everything that is not changed stays as it has it.
        vision: What is changed in its ``vision_cfg``.
        text: What is changed in its ``text_cfg``; None makes it a small one of open_clip's own.
        changes: What is changed beside the two.
    """
    config = copy.deepcopy(import_open_clip().get_model_config(arch))
    config["embed_dim"] = DIM
    config["vision_cfg"] |= vision
    config["text_cfg"] = {**config["text_cfg"], **text} if text is not None else dict(TEXT)
    config |= changes
    kind: Any = next(kind.reader for kind in KINDS if kind.fits(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, arch, kind.check_config)
        stir(model)
    return kind.from_config(config, model.state_dict(), arch)


def stir(model: nn.Module) -> None:
    """Add noise to all weights, those that start at 0 or 1 too, so that no part of a model is without effect."""
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)


def vit(arch: str, **vision: Any) -> Builder:
    """Return the builder of a vision transformer of open_clip's own."""
    return lambda blocks: narrow(
        arch, {"width": 32, "head_width": 8, "mlp_ratio": 2, "layers": blocks, "image_size": 64, **vision}
    )


TOWERS: dict[str, Builder] = {
    "ViT (OpenAI, LAION, MetaCLIP, DFN)": vit("ViT-B-16-quickgelu"),
    "ViT without a class embedding (pool_type avg)": vit("ViT-B-32", pool_type="avg", patch_size=16),
    "ResNet": lambda blocks: narrow("RN50", {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64}),
    "ConvNeXt": lambda blocks: narrow("convnext_base", {"timm_model_name": "test_convnext", "image_size": 64}),
}
