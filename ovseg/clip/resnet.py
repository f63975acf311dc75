"""ResNet image towers of CLIP: levels, and attention pooling inside masks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.position import resize_position
from ovseg.ops.mask_pooling import resize_masks


class ResNetTower:
    """An open_clip `ModifiedResNet`."""

    def __init__(self, visual: Any) -> None:
        """Adapt a tower."""
        self.visual, self.attention = visual, visual.attnpool

    @property
    def channels(self) -> dict[str, int]:
        """Channels of every level."""
        width = self.visual.conv3.out_channels
        stages = {f"res{i + 2}": width * 4 * 2**i for i in range(4)}
        return {"stem": width, **stages, "dense": stages["res5"]}

    @property
    def body(self) -> list[nn.Module]:
        """The modules that make the levels, all but the embedding of masks."""
        return [module for name, module in self.visual.named_children() if name != "attnpool"]

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return all levels of images (B, 3, H, W): ``stem`` at 1/2, then 1/4, 1/8, 1/16 and 1/32."""
        tower = self.visual
        x = tower.act1(tower.bn1(tower.conv1(images)))
        x = tower.act2(tower.bn2(tower.conv2(x)))
        x = tower.act3(tower.bn3(tower.conv3(x)))
        levels = {"stem": x}
        x = tower.avgpool(x)
        for index, stage in enumerate((tower.layer1, tower.layer2, tower.layer3, tower.layer4)):
            x = levels[f"res{index + 2}"] = stage(x)
        levels["dense"] = x
        return levels

    def pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed masks by CLIP's attention pooling over the pixels whose mask logit is positive.

        The query is the mean of the whole image, as in CLIP, but it is not among the keys. An empty mask attends to
        nothing, which leaves the bias of the last projection.
        """
        pool, grid = self.attention, (dense.shape[2], dense.shape[3])
        side = round((len(pool.positional_embedding) - 1) ** 0.5)
        place = resize_position(pool.positional_embedding, (side, side), grid, "bilinear").to(dense.dtype)
        pixels = dense.flatten(2).mT
        mean = pixels.mean(1, keepdim=True) + place[:1]
        pixels = pixels + place[1:]
        query, key, value = (
            project(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for project, x in ((pool.q_proj, mean), (pool.k_proj, pixels), (pool.v_proj, pixels))
        )
        inside = (resize_masks(mask_logits.detach(), grid).flatten(2) > 0)[:, None]
        some = inside.any(-1, keepdim=True)
        scores = (query * query.shape[-1] ** -0.5) @ key.mT  # (B, heads, 1, N)
        weights = scores.masked_fill(~inside & some, -float("inf")).softmax(-1) * some
        return F.linear((weights @ value).transpose(1, 2).flatten(2), pool.c_proj.weight, pool.c_proj.bias)
