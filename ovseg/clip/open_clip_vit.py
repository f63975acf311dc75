"""open_clip's own vision transformers from inside; `timm_vit`, `resnet` and `convnext` are its other towers.

Only leaf modules are called (convolution, norms, linear layers), never open_clip's own blocks, so it makes no
difference whether a version keeps tokens sequence-first or batch-first, or attends by ``nn.MultiheadAttention`` or by
its own class.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.attention_pools import QueryPool
from ovseg.clip.position import resize_position
from ovseg.clip.tokens import ATTENTION, CLASS_EMBEDDING, CLASS_TOKEN, DENSE, HEADS_ADD, POSITIONS, STREAM, Block
from ovseg.errors import ConfigError, EnvironmentProblem
from ovseg.ops.linear_layers import PackedLinear


class OpenClipBlock(Block):
    """One residual attention block of open_clip as leaf operations."""

    def __init__(self, module: Any) -> None:
        """Adapt a block; see `check_block` for what cannot be adapted."""
        check_block(module)
        self.module = module
        self.attn = module.attn
        self._packed: PackedLinear | None = None  # takes the place of the weights of queries, keys and values
        self.heads: int = self.attn.num_heads
        self.scale: float = (self.attn.out_proj.in_features // self.heads) ** -0.5

    @property
    def norm_behind_heads(self) -> bool:
        """Whether what the heads give is normed together, so that attention is no sum over them."""
        norms = (getattr(self.module, "ln_attn", None), getattr(self.attn, "ln_inner", None))
        return any(isinstance(norm, nn.LayerNorm) for norm in norms)

    def norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the attention sees them, after the first norm."""
        return self.module.ln_1(tokens)

    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, N, d), of tokens (B, N, C); the first norm is inside."""
        normed = self.norm(tokens)
        if self._packed is None:
            joined = F.linear(normed, joined_weight(self.attn), self.attn.in_proj_bias)
        else:
            joined = self._packed(normed)
        query, key, value = joined.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # nn.MultiheadAttention has no norms of queries and keys; open_clip's own class has, perhaps identities.
        return getattr(self.attn, "ln_q", _same)(query), getattr(self.attn, "ln_k", _same)(key), value

    def project(self, heads: Tensor) -> Tensor:
        """Join heads (B, heads, N, d) to what a block adds to its tokens (B, N, C): out_proj, bias, layer scale."""
        if getattr(self.attn, "head_scale", None) is not None:
            heads = heads * self.attn.head_scale
        joined = getattr(self.attn, "ln_inner", _same)(heads.transpose(1, 2).flatten(2))
        return self.module.ls_1(getattr(self.module, "ln_attn", _same)(self.attn.out_proj(joined)))

    def second_norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the feed-forward half sees them."""
        return self.module.ln_2(tokens)

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Return what the feed-forward half adds to tokens (B, N, C)."""
        hidden = self.second_norm(tokens)
        for part in self.module.mlp:
            in_place = type(part).__name__ == "QuickGELU" and not torch.is_grad_enabled()
            hidden = _quick_gelu_(hidden) if in_place else part(hidden)
        return self.module.ls_2(hidden)

    def pack_attention(self) -> None:
        """Lay the weights of the attention out for the CPU; open_clip's own forward pass cannot run after that.

        They are no plain linear layers, so `ovseg.ops.linear_layers.pack_linears` leaves them alone.

        Raises:
            EnvironmentProblem: They cannot be packed here.
        """
        if self._packed is not None:
            return
        self._packed = PackedLinear.of(joined_weight(self.attn), self.attn.in_proj_bias)
        self.attn.out_proj = PackedLinear.of(self.attn.out_proj.weight, self.attn.out_proj.bias)
        for name in (JOINED, *APART):
            setattr(self.attn, name, None)  # their memory


class ViTTower:
    """An open_clip vision transformer as embedding, blocks and head; the parts of `ovseg.clip.tower.Tower`."""

    prefix = 1

    def __init__(self, visual: Any) -> None:
        """Adapt a tower; see `check_tower` for what is refused."""
        check_tower(visual)
        self.visual = visual
        self.patch_size: int = self.visual.conv1.kernel_size[0]
        self.width: int = self.visual.conv1.out_channels
        self.table_grid: tuple[int, int] = tuple(self.visual.grid_size)
        size = self.visual.image_size
        self.image_size: int = size if isinstance(size, int) else min(size)
        self.blocks = [OpenClipBlock(module) for module in self.visual.transformer.resblocks]
        self.pools = [QueryPool(module) for module in _pools(self.visual)]
        self.has = self._has()

    def _has(self) -> frozenset[str]:
        """Return what methods may need of it; asked once, for torch.compile of 2.4 makes no frozen sets."""
        found = {DENSE, STREAM, ATTENTION, CLASS_TOKEN, POSITIONS}
        if self.pools:
            return frozenset(found)
        found |= {CLASS_EMBEDDING} if self.visual.pool_type == "tok" else set()
        return frozenset(found if any(block.norm_behind_heads for block in self.blocks) else found | {HEADS_ADD})

    @property
    def position_table(self) -> Tensor:
        """CLIP's own position embeddings (1 + g_h * g_w, C), class token first."""
        found: Tensor = self.visual.positional_embedding
        return found

    def blocks_on(self, grid: tuple[int, int]) -> list[OpenClipBlock]:
        """Return the blocks, which are the same on every grid."""
        return self.blocks

    def pack_attention(self) -> None:
        """Lay the weights of all attention out for the CPU; see `OpenClipBlock.pack_attention`."""
        for block in self.blocks:
            block.pack_attention()

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.visual.conv1.weight.dtype

    @property
    def body(self) -> list[nn.Module]:
        """The modules of the blocks, without what is before and behind them."""
        return [self.visual.transformer]

    def position(self, grid: tuple[int, int], rule: str, table: Tensor | None = None) -> Tensor:
        """Return the position embeddings (1 + h * w, C) of a patch grid, class token first.

        Args:
            grid: Rows and columns.
            rule: Of `ovseg.clip.position`.
            table: Takes the place of CLIP's own table (1 + g_h * g_w, C), for models that train it.
        """
        own = self.visual.positional_embedding if table is None else table
        return resize_position(own, self.table_grid, grid, rule)

    def embed(
        self, images: Tensor, rule: str, table: Tensor | None = None, rounding: torch.dtype | None = None
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + h * w, C) that enter the first block, and the grid; see `Tower.embed`."""
        patches = self.patches(images)
        grid = (patches.shape[2], patches.shape[3])
        return self.enter(patches.flatten(2).mT, grid, rule, table, rounding), grid

    def patches(self, images: Tensor) -> Tensor:
        """Return the patches (B, C, h, w) of images, without positions."""
        found: Tensor = self.visual.conv1(images.to(self.dtype))
        return found

    def enter(
        self,
        patches: Tensor,
        grid: tuple[int, int],
        rule: str,
        table: Tensor | None = None,
        rounding: torch.dtype | None = None,
    ) -> Tensor:
        """Return the tokens (B, 1 + h * w, C) that enter the first block of patches (B, h * w, C); see `embed`."""
        cls = self.visual.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        tokens = torch.cat([cls, patches], dim=1)
        position = self.position(grid, rule, table)
        entering: Tensor = self.visual.ln_pre(tokens + position.to(rounding or tokens.dtype).to(tokens.dtype))
        return entering

    def patches_to_joint(self, tokens: Tensor) -> Tensor:
        """Project tokens (B, N, C), each by itself, to the joint space (B, N, D)."""
        visual = self.visual
        # What left blocks of lower precision is lower, too, and is projected outside of their autocast by some methods.
        tokens = tokens.to(visual.proj.dtype)
        if not self.pools:
            return visual.ln_post(tokens) @ visual.proj
        tokens = visual.ln_post(tokens) if self.norm_first else tokens
        for pool in self.pools:
            tokens = pool.each(tokens)
        return (tokens if self.norm_first else visual.ln_post(tokens)) @ visual.proj

    def linear_head(self) -> tuple[nn.LayerNorm, Tensor, Tensor]:
        """Return the last norm, the projection (C, D) behind it, and no bias (D,)."""
        projection = self.visual.proj
        return self.visual.ln_post, projection, projection.new_zeros(projection.shape[1])

    def head(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project tokens (B, 1 + N, C) to the joint space.

        Returns:
            All tokens (B, 1 + N, D), and the embedding (B, D) of the image by the tower's own pooling.
        """
        joint, visual = self.patches_to_joint(tokens), self.visual
        if self.pools:
            return joint, self._attend(tokens.to(visual.proj.dtype)) @ visual.proj
        if visual.pool_type == "tok":
            return joint, joint[:, 0]
        if getattr(visual, "final_ln_after_pool", False):
            return joint, self.patches_to_joint(tokens[:, 1:].mean(1))
        return joint, joint[:, 1:].mean(1)

    @property
    def norm_first(self) -> bool:
        """Whether the last norm stands before the pools, the last of which has one query, as in CoCa's paper."""
        return bool(getattr(self.visual, "attn_pool_type", ""))

    def _attend(self, tokens: Tensor) -> Tensor:
        """Pool all tokens (B, 1 + N, C) by the attention pools: (B, D)."""
        found = self.visual.ln_post(tokens) if self.norm_first else tokens
        for pool in self.pools:
            found = pool.module(found)
        found = found if self.norm_first else self.visual.ln_post(found)
        first = self.norm_first or self.visual.pool_type == "tok"
        return found[:, 0] if first else found[:, 1:].mean(1)


def _pools(visual: Any) -> list[Any]:
    """Return the attention pools that a token goes through one after the other; none for most towers."""
    if getattr(visual, "attn_pool", None) is None:
        return []
    own = getattr(visual, "attn_pool_contrastive", None)
    if own is None:
        return [visual.attn_pool]
    return [own] if visual.attn_pool_type == "parallel" else [visual.attn_pool, own]


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _quick_gelu_(hidden: Tensor) -> Tensor:
    """Replace x by ``x * sigmoid(1.702 x)``; open_clip's module makes three new tensors of the widest layer for it."""
    return F.silu(hidden.mul_(1.702), inplace=True).mul_(1 / 1.702)


JOINED, APART = "in_proj_weight", ("q_proj_weight", "k_proj_weight", "v_proj_weight")


def joined_weight(attn: Any) -> Tensor:
    """Return the weights of queries, keys and values (3 C, C), also where `split_weights` has taken them apart."""
    own: Tensor | None = getattr(attn, JOINED)
    return torch.cat([getattr(attn, name) for name in APART]) if own is None else own


def split_weights(model: nn.Module) -> None:
    """Take the weights of queries, keys and values of all attention of a model apart, so that each can be tuned alone.

    They get the names that `torch.nn.MultiheadAttention` has for them, which then runs on them, too.
    """
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
            for name, weight in zip(APART, module.in_proj_weight.detach().chunk(3), strict=True):
                setattr(module, name, nn.Parameter(weight.clone(), module.in_proj_weight.requires_grad))
            module.register_parameter(JOINED, None)
            module._qkv_same_embed_dim = False


def check_block(module: Any) -> None:
    """Refuse a block whose attention is not the usual one.

    Raises:
        EnvironmentProblem: The installed open_clip builds blocks of a kind that is not known here.
        ConfigError: The model uses cosine-scaled attention.
    """
    attn = getattr(module, "attn", None)
    parts = ("num_heads", "out_proj")
    weights = any(all(getattr(attn, name, None) is not None for name in names) for names in ((JOINED,), APART))
    if not weights or any(getattr(attn, part, None) is None for part in parts) or not hasattr(module, "mlp"):
        kind = type(attn if attn is not None else module).__name__
        raise EnvironmentProblem(
            f"open_clip builds attention of an unknown kind ({kind}); expected packed q, k, v weights; "
            "install a version of open_clip_torch that ovseg supports (>= 3.3, < 4)"
        )
    if getattr(attn, "scaled_cosine", False):
        raise ConfigError("a CLIP with cosine-scaled attention (scaled_cosine_attn) is not supported; use another CLIP")


def check_tower(visual: Any) -> None:
    """Refuse towers that are no plain vision transformer.

    Raises:
        ConfigError: Names the kind of tower and what is expected.
    """
    if type(visual).__name__ != "VisionTransformer":
        raise ConfigError(f"the image tower is a {type(visual).__name__}; expected open_clip's own VisionTransformer")
    if visual.pool_type not in ("tok", "avg") and not getattr(visual, "attn_pool_type", ""):
        raise ConfigError(
            f"the image tower does not pool (pool_type '{visual.pool_type}'), so it has no embedding of an image; "
            "expected pool_type 'tok' or 'avg'"
        )
    if len(set(visual.patch_size)) > 1:
        raise ConfigError(f"the image tower has patches of {visual.patch_size} pixels; expected squares")
