"""Vision transformers of transformers from inside: CLIP's with a class token, and SigLIP's that attention pools.

Only leaf modules are called (linear layers, norms, convolutions), for images of any size; what pools an image of SigLIP
is its own head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.attention_pools import ProbePool
from ovseg.clip.hf.families import CLASS_TOWER, TOKEN_TOWER
from ovseg.clip.position import resize_patches, resize_position
from ovseg.clip.tokens import Block

NAFLEX_RULE = "bilinear_antialias"
"""NaFlex (SigLIP 2) was trained with position embeddings resized so to the grid of every image, never without."""


class HfBlock(Block):
    """One block of a tower as leaf operations; those of texts are built alike."""

    def __init__(self, module: Any) -> None:
        """Adapt a block."""
        self.module, self.attn = module, module.self_attn
        self.heads: int = self.attn.num_heads
        self.scale: float = self.attn.scale

    def norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the attention sees them, after the first norm."""
        found: Tensor = self.module.layer_norm1(tokens)
        return found

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, N, d), of tokens (B, N, C); the first norm is inside."""
        attn, normed = self.attn, self.norm(tokens)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        return query, key, value

    def project(self, heads: Tensor) -> Tensor:
        """Join heads (B, heads, N, d) to what attention adds to the tokens (B, N, C)."""
        found: Tensor = self.attn.out_proj(heads.transpose(1, 2).flatten(2))
        return found

    def second_norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the feed-forward half sees them."""
        found: Tensor = self.module.layer_norm2(tokens)
        return found

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Return what the feed-forward half adds to tokens (B, N, C)."""
        found: Tensor = self.module.mlp(self.second_norm(tokens))
        return found


class HfTower:
    """The image tower of a model as embedding, blocks and head; the parts of `ovseg.clip.tower.Tower`."""

    def __init__(self, model: Any) -> None:
        """Adapt the image tower of a model of one of `ovseg.clip.hf.families.FAMILIES`."""
        self.model, self.vision = model, model.vision_model
        vision, self.stem = model.config.vision_config, self.vision.embeddings
        self.patch_size: int = vision.patch_size
        self.width: int = vision.hidden_size
        self.flexible = isinstance(self.stem.patch_embedding, nn.Linear)  # NaFlex, which knows no size of images
        side = round(self.stem.position_embedding.num_embeddings**0.5)  # one class token changes no root by half
        self.table_grid = (side, side)
        self.image_size: int = side * self.patch_size
        self.prefix = int(hasattr(self.stem, "class_embedding"))
        self.pools = [] if self.prefix else [ProbePool(self.vision.head)]
        self.blocks = [HfBlock(module) for module in self.vision.encoder.layers]

    @property
    def has(self) -> frozenset[str]:
        """What methods may need of it."""
        return CLASS_TOWER if self.prefix else TOKEN_TOWER

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights around the blocks."""
        found: torch.dtype = self.stem.patch_embedding.weight.dtype
        return found

    @property
    def body(self) -> list[nn.Module]:
        """The modules of the blocks, without what is before and behind them."""
        return [self.vision.encoder]

    @property
    def position_table(self) -> Tensor:
        """Its own position embeddings (P + g_h * g_w, C), that of the class token first if there is one."""
        found: Tensor = self.stem.position_embedding.weight
        return found

    def blocks_on(self, grid: tuple[int, int]) -> Sequence[HfBlock]:
        """Return the blocks, which are the same on every grid."""
        return self.blocks

    def pack_attention(self) -> None:
        """Do nothing: all weights of the attention are those of linear layers."""

    def embed(
        self, images: Tensor, rule: str, table: Tensor | None = None, rounding: torch.dtype | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, P + h * w, C) that enter the first block, and the grid; see `Tower.embed`.

        NaFlex resizes position embeddings by its own rule, whatever the method's is.
        """
        patches = F.conv2d(images.to(self.dtype), *self._patch_weights(), stride=self.patch_size)
        grid, tokens = (patches.shape[2], patches.shape[3]), patches.flatten(2).mT
        resize = resize_position if self.prefix else resize_patches
        place = resize(
            self.position_table if table is None else table,
            self.table_grid,
            grid,
            NAFLEX_RULE if self.flexible else rule,
        )
        if self.prefix:
            tokens = torch.cat(
                [self.stem.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1), tokens], dim=1
            )
        tokens = tokens + place.to(rounding or tokens.dtype).to(tokens.dtype)
        return self.vision.pre_layrnorm(tokens) if self.prefix else tokens, grid

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        """Bring tokens (B, N, C), each by itself, to the joint space (B, N, D)."""
        normed = self._normed(tokens)
        found: Tensor = self.model.visual_projection(normed) if self.prefix else self.pools[0].each(normed)
        return found

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens in the joint space and the embedding of the image; see `Tower.head`."""
        joint = self.patches_to_joint(tokens)
        return joint, joint[:, 0] if self.prefix else self.vision.head(self._normed(tokens))

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor, Tensor]:
        """Return the last norm, the projection (C, D) behind it, and no bias (D,)."""
        projection = self.model.visual_projection.weight
        return self.vision.post_layernorm, projection.mT, projection.new_zeros(len(projection))

    def _normed(self, tokens: Tensor) -> Tensor:
        norm = self.vision.post_layernorm
        # What left blocks of lower precision is lower, too, and is projected outside of their autocast by some methods.
        found: Tensor = norm(tokens.to(norm.weight.dtype))
        return found

    def _patch_weights(self) -> tuple[Tensor, Tensor | None]:
        """Return weight (C, 3, p, p) and bias of the patches; NaFlex has a linear layer, colours last in a patch."""
        weight, size = self.stem.patch_embedding.weight, self.patch_size
        if self.flexible:
            weight = weight.unflatten(1, (size, size, -1)).permute(0, 3, 1, 2)
        return weight, self.stem.patch_embedding.bias
