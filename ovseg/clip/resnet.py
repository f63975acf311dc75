"""ResNet image towers of CLIP: levels, and attention pooling inside masks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.position import resize_position
from ovseg.ops.mask_pooling import resize_masks


class ResNetTower:
    """An open_clip `ModifiedResNet`."""

    recipe = (
        "every place goes through the value and output projections of the attention pool (MaskCLIP, arXiv 2112.01071), "
        "or by plain CLIP asks the pool as the mean of the image does"
    )

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
        grid = (dense.shape[2], dense.shape[3])
        tokens = self._placed(dense.flatten(2).mT, grid, "bilinear")
        query, key, value = self._heads(tokens[:, :1], tokens[:, 1:])
        inside = (resize_masks(mask_logits.detach(), grid).flatten(2) > 0)[:, None]
        some = inside.any(-1, keepdim=True)
        scores = (query * query.shape[-1] ** -0.5) @ key.mT  # (B, heads, 1, N)
        weights = scores.masked_fill(~inside & some, -float("inf")).softmax(-1) * some
        return self._joined(weights @ value)

    def each(self, places: Tensor, grid: tuple[int, int], rule: str, own_values: bool) -> tuple[Tensor, Tensor]:
        """Bring places (B, N, C) to the joint space (B, N, D), and their image (B, D), which the pool attends to.

        Args:
            places: Row by row.
            grid: Rows and columns of them.
            rule: See `ovseg.clip.position`.
            own_values: Whether each keeps its own value, without position as in MaskCLIP's original, or asks the
                pool as the mean of the image does.
        """
        tokens = self._placed(places, grid, rule)
        found = self._joined(
            F.scaled_dot_product_attention(*self._heads(tokens[:, :1] if own_values else tokens, tokens))
        )
        pool = self.attention
        return pool.c_proj(pool.v_proj(places)) if own_values else found[:, 1:], found[:, 0]

    def _placed(self, places: Tensor, grid: tuple[int, int], rule: str) -> Tensor:
        """Put the mean before places (B, N, C) and add position embeddings: (B, 1 + N, C)."""
        table = self.attention.positional_embedding
        side = round((len(table) - 1) ** 0.5)
        position = resize_position(table, (side, side), grid, rule).to(places.dtype)
        return torch.cat([places.mean(1, keepdim=True), places], dim=1) + position

    def _heads(self, asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries of tokens (B, M, C), and keys and values of others (B, N, C): (B, heads, ..., d)."""
        pool = self.attention
        query, key, value = (
            project(x).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for project, x in ((pool.q_proj, asking), (pool.k_proj, asked), (pool.v_proj, asked))
        )
        return query, key, value

    def _joined(self, heads: Tensor) -> Tensor:
        """Bring heads (B, heads, N, d) to the joint space (B, N, D)."""
        return self.attention.c_proj(heads.transpose(1, 2).flatten(2))
