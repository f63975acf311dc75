"""Vision transformers of timm from inside, as open_clip's `TimmModel` has them: EVA, SigLIP, PE, ViTamin, MobileCLIP-B.

They differ from CLIP's own in what stands before the blocks (a convolutional stem, registers, no class token), in the
blocks (rotary positions, norms behind halves or heads, gated feed-forward halves) and in the head (attention, means).
Only leaf modules are called here, for images of any size; what pools an image is timm's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.clip.attention_pools import LatentPool
from ovseg.clip.position import resize_patches
from ovseg.clip.tokens import ATTENTION, CLASS_EMBEDDING, CLASS_TOKEN, DENSE, HEADS_ADD, POSITIONS, STREAM, Block
from ovseg.errors import ConfigError

_PRE_NORM, _POST_NORM = ("Block", "EvaBlock"), ("ResPostBlock", "EvaBlockPostNorm")
_ATTENTIONS = ("Attention", "EvaAttention", "AttentionRope")
_TRUNKS = ("VisionTransformer", "Eva")


class TimmBlock(Block):
    """One block of a timm vision transformer as leaf operations."""

    def __init__(self, module: Any) -> None:
        """Adapt a block; see `check_trunk` for what cannot be adapted."""
        self.module, self.attn = module, module.attn
        self.heads: int = module.attn.num_heads
        self.scale: float = module.attn.scale
        self.post_norm = type(module).__name__ in _POST_NORM

    @property
    def norm_behind_heads(self) -> bool:
        """Whether what the heads give is normed together, so that attention is no sum over them."""
        return self.post_norm or not isinstance(getattr(self.attn, "norm", nn.Identity()), nn.Identity)

    def norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the attention sees them; with norms behind the halves, as they are."""
        return tokens if self.post_norm else self.module.norm1(tokens)

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, N, d), of tokens (B, N, C); the first norm is inside."""
        attn, normed = self.attn, self.norm(tokens)
        if attn.qkv is None:
            parts = [layer(normed) for layer in (attn.q_proj, attn.k_proj, attn.v_proj)]
        else:
            joined = attn.qkv(normed)
            if getattr(attn, "q_bias", None) is not None:  # EVA has none for keys, beside the layer
                bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
                joined = joined + bias.to(joined.dtype)
            parts = list(joined.chunk(3, dim=-1))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return attn.q_norm(query), attn.k_norm(key), value

    def project(self, heads: Tensor) -> Tensor:
        """Join heads (B, heads, N, d) to what a block adds to its tokens (B, N, C), norms and layer scale included."""
        joined = heads.transpose(1, 2).flatten(2)
        written = self.attn.proj(self.attn.norm(joined) if hasattr(self.attn, "norm") else joined)
        return self.module.norm1(written) if self.post_norm else self._scaled(written, 1)

    def second_norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the feed-forward half sees them."""
        return tokens if self.post_norm else self.module.norm2(tokens)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Return what the feed-forward half adds to tokens (B, N, C)."""
        written = self.module.mlp(self.second_norm(tokens))
        return self.module.norm2(written) if self.post_norm else self._scaled(written, 2)

    def _scaled(self, written: Tensor, half: int) -> Tensor:
        """Apply the layer scale of a half, if there is one: EVA has it as a parameter, the others as a module."""
        gamma = getattr(self.module, f"gamma_{half}", None)
        if gamma is not None:
            return written * gamma
        found: Tensor = getattr(self.module, f"ls{half}", nn.Identity())(written)
        return found


class UnplacedBlock(TimmBlock):
    """A block that turns queries and keys by the places of patches, before it is known where they lie."""

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Refuse to compare tokens whose places are not known.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("this tower turns queries and keys by places: take blocks of `blocks_on(grid)`")


class RotaryBlock(TimmBlock):
    """A block that turns queries and keys by the places of patches, on a grid.

    Args:
        module: The block.
        prefix: Number of leading tokens, which are not turned.
        turn: Sines and cosines (h * w, d) of the places, float32.
    """

    def __init__(self, module: Any, prefix: int, turn: tuple[Tensor, Tensor]) -> None:
        super().__init__(module)
        self.prefix, self.turn = prefix, turn

    @property
    def placeless(self) -> Block:
        """The block for tokens that belong to no place, which are not turned."""
        return TimmBlock(self.module)

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return turned queries and keys, and values, each (B, heads, N, d), of all tokens (B, N = P + h * w, C)."""
        query, key, value = super().qkv(tokens)
        return self._turned(query).to(value.dtype), self._turned(key).to(value.dtype), value

    def _turned(self, heads: Tensor) -> Tensor:
        """Turn the patches of (B, heads, P + h * w, d), two dimensions at a time."""
        sine, cosine = self.turn
        patches = heads[:, :, self.prefix :]
        if getattr(self.attn, "rotate_half", False):
            first, second = patches.chunk(2, dim=-1)
            across = torch.cat([-second, first], dim=-1)
        else:
            across = torch.stack([-patches[..., 1::2], patches[..., ::2]], dim=-1).flatten(-2)
        return torch.cat([heads[:, :, : self.prefix], patches * cosine + across * sine], dim=2)


class TimmTower:
    """A timm vision transformer in open_clip's adapter as embedding, blocks and head; see `ovseg.clip.tower.Tower`."""

    def __init__(self, visual: Any) -> None:
        """Adapt a tower; see `check_trunk` for what is refused."""
        self.visual, self.trunk = visual, visual.trunk
        trunk = self.trunk
        check_trunk(trunk)
        self.pools = [] if trunk.attn_pool is None else [LatentPool(trunk.attn_pool)]
        stem = trunk.patch_embed
        self.patch_size: int = stem.feat_ratio()
        self.table_grid: tuple[int, int] = tuple(stem.grid_size)
        self.image_size: int = min(stem.img_size)
        self.width: int = trunk.embed_dim
        self.prefix: int = trunk.num_prefix_tokens
        kind = TimmBlock if self.rope is None else UnplacedBlock
        self.blocks: Sequence[TimmBlock] = [kind(module) for module in trunk.blocks]

    @property
    def rope(self) -> Any:
        """What knows the turns of places; None where nothing is turned."""
        return getattr(self.trunk, "rope", None)

    @property
    def has(self) -> frozenset[str]:
        """What methods may need of it."""
        found = {DENSE, STREAM, ATTENTION}
        found |= {CLASS_TOKEN} if self.trunk.cls_token is not None else set()
        found |= {CLASS_EMBEDDING} if self.trunk.global_pool == "token" else set()
        found |= {POSITIONS} if self.trunk.pos_embed is not None else set()
        adds = not any(block.norm_behind_heads for block in self.blocks)
        return frozenset(found | ({HEADS_ADD} if adds and self._is_linear() else set()))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights around the blocks."""
        found: torch.dtype = next(self.trunk.patch_embed.parameters()).dtype
        return found

    @property
    def body(self) -> list[nn.Module]:
        """The modules of the blocks, without what is before and behind them."""
        return [self.trunk.blocks]

    @property
    def position_table(self) -> Tensor:
        """Its own position embeddings, those of leading tokens first if they have any; with `POSITIONS`."""
        found: Tensor = self.trunk.pos_embed[0]
        return found

    def blocks_on(self, grid: tuple[int, int]) -> Sequence[TimmBlock]:
        """Return the blocks for patches on a grid."""
        if self.rope is None:
            return self.blocks
        turn = self._turn(grid)
        return [RotaryBlock(block.module, self.prefix, turn) for block in self.blocks]

    def embed(
        self, images: Tensor, rule: str, table: Tensor | None = None, rounding: torch.dtype | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, P + h * w, C) that enter the first block, and the grid; see `Tower.embed`."""
        trunk, size = self.trunk, self.patch_size
        height, width = (length // size * size for length in images.shape[2:])
        patches = _patches(trunk.patch_embed, images[:, :, :height, :width].to(self.dtype))
        grid, tokens = (patches.shape[2], patches.shape[3]), patches.flatten(2).mT
        tokens = getattr(trunk.patch_embed, "norm", nn.Identity())(tokens)
        first = [part for part in (trunk.cls_token, getattr(trunk, "reg_token", None)) if part is not None]
        lead = [part.to(tokens.dtype).expand(tokens.shape[0], -1, -1) for part in first]
        if table is None and trunk.pos_embed is None:
            return trunk.norm_pre(torch.cat([*lead, tokens], dim=1)), grid
        place = self.position(grid, rule, table).to(rounding or tokens.dtype).to(tokens.dtype)
        if len(place) == tokens.shape[1]:
            return trunk.norm_pre(torch.cat([*lead, tokens + place], dim=1)), grid
        return trunk.norm_pre(torch.cat([*lead, tokens], dim=1) + place), grid

    def position(self, grid: tuple[int, int], rule: str, table: Tensor | None = None) -> Tensor:
        """Return the position embeddings of a grid, (h * w, C) or (P + h * w, C); arguments as in `Tower.embed`."""
        own = self.position_table if table is None else table
        leading = len(own) - self.table_grid[0] * self.table_grid[1]
        return torch.cat([own[:leading], resize_patches(own[leading:], self.table_grid, grid, rule)])

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        """Bring tokens (B, N, C), each by itself, to the joint space (B, N, D)."""
        tokens = self.trunk.norm(tokens.to(self.dtype))
        for pool in self.pools:
            tokens = pool.each(tokens)
        found: Tensor = self.visual.head(self.trunk.head(self.trunk.fc_norm(tokens)))
        return found

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return all tokens in the joint space and the embedding of the image; see `Tower.head`."""
        embedding = self.visual.head(self.trunk.forward_head(self.trunk.norm(tokens.to(self.dtype))))
        return self.patches_to_joint(tokens), embedding

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor, Tensor]:
        """Return what brings the class token to the joint space, with `HEADS_ADD`: norm, matrix (C, D), bias (D,)."""
        norm, layers = self.trunk.norm, self._layers()
        if not layers:
            return norm, torch.eye(self.width).to(norm.weight), torch.zeros(self.width).to(norm.weight)
        weight, bias = layers[0].weight, layers[0].bias
        return norm, weight.mT, weight.new_zeros(len(weight)) if bias is None else bias

    def pack_attention(self) -> None:
        """Do nothing: all weights of the attention are those of linear layers."""

    def _layers(self) -> list[Any]:
        """Return what a token goes through behind the last norm, without what leaves it as it is."""
        behind = (self.trunk.fc_norm, self.trunk.head, *self.visual.head)
        return [layer for layer in behind if not isinstance(layer, nn.Identity | nn.Dropout)]

    def _is_linear(self) -> bool:
        """Tell whether the head is a norm and no more than one linear layer."""
        plain = not self.pools and isinstance(self.trunk.norm, nn.LayerNorm) and len(self._layers()) <= 1
        return plain and all(isinstance(layer, nn.Linear) for layer in self._layers())

    def _turn(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return sines and cosines (h * w, d) of the places of a grid, in float32."""
        from timm.layers import build_rotary_pos_embed

        rope, weight = self.rope, next(self.trunk.patch_embed.parameters())
        half: dict[str, Any] = {"rotate_half": True} if getattr(rope, "rotate_half", False) else {}
        sine, cosine = build_rotary_pos_embed(
            list(grid),
            dim=rope.dim,
            max_res=rope.max_res,
            temperature=float(rope.temperature),
            linear_bands=rope.linear_bands,
            in_pixels=rope.in_pixels,
            ref_feat_shape=rope.ref_feat_shape,
            grid_offset=rope.grid_offset,
            grid_indexing=rope.grid_indexing,
            device=weight.device,
            dtype=torch.float32,
            **half,
        )
        return sine, cosine


def check_trunk(trunk: Any) -> None:
    """Refuse towers of timm that are no vision transformer with plain attention.

    Raises:
        ConfigError: Names what is of another kind, and what is expected.
    """
    unfit = _unfit(trunk)
    if unfit:
        raise ConfigError(
            f"the image tower {unfit}; expected blocks of plain attention over one grid of patches, such as those of "
            "EVA02-B-16, ViT-B-16-SigLIP2 or PE-Core-B-16"
        )


def _unfit(trunk: Any) -> str:
    """Return what is wrong with a trunk; empty for nothing."""
    if type(trunk).__name__ not in _TRUNKS:
        return f"is timm's {type(trunk).__name__}"
    stem, rope = trunk.patch_embed, getattr(trunk, "rope", None)
    if type(stem).__name__ not in ("PatchEmbed", "HybridEmbed"):
        return f"cuts patches by timm's {type(stem).__name__}"
    if len(set(stem.feat_ratio(as_scalar=False))) > 1:
        return f"has patches of {stem.feat_ratio(as_scalar=False)} pixels, which are no squares"
    if rope is not None and type(rope).__name__ != "RotaryEmbeddingCat":
        return f"has rotary positions of timm's {type(rope).__name__}"
    if not trunk.global_pool:
        return "does not pool, so it has no embedding of an image"
    for block in trunk.blocks:
        if type(block).__name__ not in (*_PRE_NORM, *_POST_NORM):
            return f"has blocks of timm's {type(block).__name__}"
        attention = block.attn
        if type(attention).__name__ not in _ATTENTIONS:
            return f"attends by timm's {type(attention).__name__}"
        if getattr(attention, "gate", None) is not None or getattr(attention, "num_kv_groups", 1) > 1:
            return "has attention with gates, or with fewer keys than queries"
    return ""


def _patches(stem: Any, images: Tensor) -> Tensor:
    """Cut images whose sides are multiples of a patch into patches (B, C, h, w), by a convolution or several."""
    features = stem.backbone(images) if hasattr(stem, "backbone") else images
    found: Tensor = stem.proj(features)
    return found
