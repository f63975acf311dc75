"""CorrCLIP: correlation within regions and the three branches, from given features and regions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_runners.common import build_clip, build_method, show, usual_outputs
from ovseg.clip import Context
from ovseg.guides import Guide
from ovseg.guides.base import unit_patches
from ovseg.recalibration.corrclip.merging import merge_regions, resize_ids
from ovseg.recalibration.corrclip.method import CorrCLIP
from ovseg.regions import RegionGenerator


class Given(Guide):
    """The features of a case, whatever the image."""

    def __init__(self, features: Tensor) -> None:
        """Keep features (B, C, h, w)."""
        super().__init__()
        self.features = features

    def forward(self, context: Context) -> Tensor:
        """Return them."""
        return self.features


class GivenRegions(RegionGenerator):
    """The regions of a case, which its images ask for one after the other."""

    def __init__(self, regions: Tensor) -> None:
        """Keep the ids (B, H, W)."""
        super().__init__()
        self.rest = iter(regions)

    def forward(self, image: Tensor) -> Tensor:
        """Return those of the next image."""
        return next(self.rest)


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    clip = build_clip({"mlp_ratio": 4, **config}, case.group("state_dict"))
    grid, image = tuple(config["vfm_grid"]), inputs["image"]
    features = inputs["dino_feats"].mT.unflatten(-1, grid)
    # What the original calls not segmented is the smallest label on the grid of the features.
    labels = inputs.get("masks", torch.zeros_like(image))[:, 0].long()
    regions = labels - resize_ids(labels, grid).min() - 1
    method = CorrCLIP(
        guide=Given(features),
        tau=float(config["tau"]),
        alpha=config.get("alpha") or 0.0,
        beta=config.get("beta") or 0.0,
        eps=(config.get("dbscan") or {}).get("eps", 0.0),
        spatial_layers=config.get("spatial_layers") or None,
    )
    shown = show(build_method(clip, method, regions=GivenRegions(regions)), image, inputs.get("text_embeddings"))
    found = usual_outputs(shown, tuple(image.shape[2:]))
    found["output.features"] = found.pop("output.patch_features")
    tokens, own = clip.tower.embed(image, method.pos_resize)
    context = Context(own, image, clip, clip.mean, clip.std, regions)
    found["intermediate.branches_pre_sum"] = torch.cat(method.run(tokens, clip.blocks, context)[:, 1:].chunk(3, 1))
    unit = unit_patches(features)
    ids = merge_regions(resize_ids(regions, grid).flatten(1), unit, method.eps)
    found["intermediate.attention"] = method.correlation(unit @ unit.mT, ids)
    return found
