"""Random weights of full size with which a photograph shows several classes, for models that propose masks.

Random weights see the same everywhere: all queries give nearly one mask and one class. Here matrices are normal by the
number of their inputs, layer scales 0.3, and the biases of the last layers of masks, classes and attention biases are
shifted so that their outputs average to nothing on one photograph; what remains is where queries and pixels differ.
Masks are then as sure of themselves as trained ones.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.models import import_stages

LAYER_SCALE = 0.3
SMALL = 0.1
MASK_SPREAD = 5.0
"""Standard deviation of mask logits."""
CENTRED = {
    "SAN": (
        "side_adapter.mask_decoder.query_mlp.layers.2",
        "side_adapter.mask_decoder.pix_mlp.layers.2",
        "side_adapter.mask_decoder.attn_mlp.layers.2",
        "clip.model.visual.ln_post",
    ),
    "FCCLIP": (
        "decoder.mask_embed.layers.2",
        "pixel_decoder.mask_features",
        "decoder.class_embed.layers.2",
        "clip.model.visual.trunk.head.norm",
    ),
}
"""Of each architecture the layers whose outputs average to nothing; the first makes of queries what masks are of."""


def photograph(path: Path, size: int) -> Tensor:
    """Read an image as (3, size, size) uint8, stretched."""
    with Image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def write_weights(config: str, image: Tensor, path: Path) -> None:
    """Build a model, fill it, and write its whole state dict, CLIP included."""
    model = import_stages().build(config)
    fill(model)
    layers = [model.get_submodule(name) for name in CENTRED[type(model).__name__]]
    for layer in layers:
        centre(layer, lambda: model.encode([image]))
    spread = MASK_SPREAD / model.encode([image]).images[0].masks.std()
    with torch.no_grad():
        for part in layers[0].parameters():
            part *= spread
    torch.save({"model": model.state_dict()}, path)


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Give all matrices of the trained parts normal values, always the same, and layer scales theirs."""
    generator = torch.Generator().manual_seed(1)
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, weight in model.named_parameters():
        if name.endswith("gamma"):
            weight.fill_(LAYER_SCALE)
        elif name.endswith("trunk.head.norm.weight"):
            weight.fill_(SMALL)  # the GELU behind it is all but linear there, so that means stay nothing
        elif weight.ndim >= 2 and not name.startswith("clip.") and weight.numel() > 1:
            inputs = 1 if id(weight) in tables else weight[0].numel()
            weight.copy_(torch.randn(weight.shape, generator=generator) * inputs**-0.5)


@torch.no_grad()
def centre(layer: Any, run: Callable[[], Any]) -> None:
    """Shift the bias of a layer by the mean of what it gave last."""
    means = list[Tensor]()

    def keep(_: nn.Module, __: Any, output: Tensor) -> None:
        channel = 1 if output.ndim == 4 else output.ndim - 1
        means.append(output.float().mean([axis for axis in range(output.ndim) if axis != channel]))

    handle = layer.register_forward_hook(keep)
    try:
        run()
    finally:
        handle.remove()
    layer.bias -= means[-1].to(layer.bias)
