"""ProxyCLIP: proxy attention from given features, on grids of their own, and padded windows."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip, build_method, empty_context, protocol, show, usual_outputs
from ovseg.clip import Context, ViTClip
from ovseg.clip.normalise import normalise
from ovseg.guides import Guide
from ovseg.guides.base import IMAGENET_MEAN, IMAGENET_STD, unit_patches
from ovseg.guides.mixing import resize_patches
from ovseg.recalibration.proxyclip import ProxyCLIP, proxy_weights


class Given(Guide):
    """The features of a case: as they are, or a strided convolution that stands in for the backbone."""

    def __init__(self, features: Tensor | None, patch_weight: Tensor | None) -> None:
        """Keep features (B, C, h, w), or else the weight (C, 3, side, side) of the convolution."""
        super().__init__()
        self.features, self.patch_weight = features, patch_weight

    def forward(self, context: Context) -> Tensor:
        """Return the features of the images, which the backbones of the original see as ImageNet's."""
        if self.features is not None:
            return self.features
        if self.patch_weight is None:
            raise ValueError("the case has neither vfm_feats nor vfm_patch_weight; expected one of them, add it")
        images = normalise(context.rgb, IMAGENET_MEAN, IMAGENET_STD)
        return F.conv2d(images, self.patch_weight, stride=self.patch_weight.shape[-1])


class GivenWindows(Guide):
    """The features of the windows of a case, which are asked for one after the other."""

    def __init__(self, features: Tensor) -> None:
        """Keep features (windows, C, h, w)."""
        super().__init__()
        self.rest = iter(features)

    def forward(self, context: Context) -> Tensor:
        """Return those of the next windows."""
        return torch.stack([next(self.rest) for _ in context.images])


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case.

    The mean of the original runs over the batch; windows come one at a time there.
    """
    inputs, config = case.group("input"), case.config
    clip = build_clip(config, case.group("state_dict"))
    swapped = config.get("value_grid", "").startswith("as in the original")
    features, weight = inputs.get("vfm_feats"), inputs.get("vfm_patch_weight")
    options = {
        "beta": config["beta"],
        "gamma": config["gamma"],
        "value_grid": "original" if swapped else "corrected",
    }
    found: dict[str, Tensor] = {}
    image = inputs["image"]
    if any(f"output.{name}" in case.tensors for name in ("patch_features", "patch_logits", "logits", "pred")):
        method = ProxyCLIP(**options, guide=Given(features, weight), batch_mean=True)
        shown = show(build_method(clip, method), image, inputs.get("text_embeddings"))
        found |= usual_outputs(shown, tuple(image.shape[2:]))
        heads = len(case.tensors.get("intermediate.attention", image)) // len(image)  # some cases show one for all
        found |= intermediates(clip, method, image, heads)
    if "postprocess" in config:
        settings = {"pad_multiple": 56, **config["postprocess"]}  # the least common multiple of 8 and 14
        windows = bool(settings.get("crop"))
        # Features of a whole image may be given beside what makes those of windows.
        whole = None if windows or features is None else features[:1]
        given = GivenWindows(features) if windows and weight is None else Given(whole, weight)
        method = ProxyCLIP(**options, guide=given)
        logits, probabilities, labels = protocol(clip, method, inputs, settings, "even" if windows else "none")
        found |= {"output.slide_logits": logits, "output.seg_probs": probabilities, "output.seg_pred": labels}
    return found


def intermediates(clip: ViTClip, method: ProxyCLIP, image: Tensor, heads: int) -> dict[str, Tensor]:
    """Return what the last block sees and makes; the attention as often as the case repeats it for the heads."""
    tokens, grid = clip.tower.embed(image, method.pos_resize)
    found = {"intermediate.pos_embed": clip.tower.position(grid, method.pos_resize)}
    for block in clip.blocks[:-1]:
        tokens = block(tokens)
    context = empty_context(clip, grid, image)
    features = method.guide(context)
    unit = unit_patches(features)
    weights = proxy_weights(features, method.beta, method.gamma, method.batch_mean)
    values = clip.blocks[-1].qkv(tokens)[2][:, :, 1:].flatten(0, 1)
    shown = (grid[1], grid[0]) if method.value_grid == "original" else grid
    return found | {
        "intermediate.last_block_input": tokens.transpose(0, 1),
        "intermediate.similarity": unit @ unit.mT,
        "intermediate.attention": weights.repeat_interleave(heads, 0),
        "intermediate.value_upsampled": resize_patches(values, shown, (features.shape[2], features.shape[3])),
        "intermediate.pre_ln_post": method.run(tokens, clip.blocks[-1:], context)[:, 1:],
    }
