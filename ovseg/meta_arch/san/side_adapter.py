"""The side adapter of SAN: a small vision transformer beside a frozen CLIP that proposes masks and attention biases."""

from __future__ import annotations

import itertools
from collections.abc import ItemsView, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.clip.position import resize_patches
from ovseg.errors import ConfigError
from ovseg.meta_arch.san.grid_start import start_on_grid


@dataclass(frozen=True)
class Stage:
    """What the side adapter proposes after one of its blocks.

    Attributes:
        masks: Logits (B, Q, h, w) on the patch grid of the side adapter.
        biases: For each bias layer (B, heads, Q, h, w), what CLIP's attention scores are raised by.
        queries: Query tokens (B, Q, C) that masks and biases were made of.
        features: Patch tokens (B, C, h, w) that they were made of.
    """

    masks: Tensor
    biases: list[Tensor]
    queries: Tensor
    features: Tensor


class SideAdapter(nn.Module):
    """Queries and patches of an image in one transformer, which takes up tokens of CLIP on its way.

    Xu et al., Side Adapter Network for Open-Vocabulary Semantic Segmentation, CVPR 2023, arXiv 2302.12242;
    github.com/MendelXu/SAN.
    """

    def __init__(
        self,
        clip_width: int,
        clip_heads: int,
        *,
        width: int = 240,
        depth: int = 8,
        heads: int = 6,
        patch: int = 16,
        image_size: int = 640,
        queries: int = 100,
        fusion: tuple[str, ...] = ("0->0", "3->1", "6->2", "9->3"),
        supervised_blocks: tuple[int, ...] = (7, 8),
        bias_heads: int = 0,
        bias_layers: int = 1,
        channels: int = 256,
        hidden: int = 256,
        mlp_layers: int = 3,
        rescale_bias: bool = True,
        mask_bias: float = 0.0,
        grid_start: float = 0.0,
    ) -> None:
        """Build it untrained.

        Args:
            clip_width: Channels of CLIP's tokens.
            clip_heads: Heads of CLIP's attention.
            width: Channels of the transformer.
            depth: Its blocks.
            heads: Of its attention.
            patch: Side of its patches in pixels.
            image_size: Side in pixels of the square images that position embeddings are stored for.
            queries: Number of masks.
            fusion: What is added where: the tokens behind 3 blocks of CLIP after block 1 is ``"3->1"``; 0 is the input.
            supervised_blocks: Blocks, from 1, behind which masks are made; the last is what inference uses.
            bias_heads: Heads of the attention biases: as many as CLIP has (0), or 1 for all.
            bias_layers: 1 for all blocks of CLIP's tail, or as many as it has.
            channels: Of the vectors whose products are masks and biases.
            hidden: Of the decoder's MLPs.
            mlp_layers: Of each of them.
            rescale_bias: Whether biases pass a learned scale and offset.
            mask_bias: How much of the mask logits is added to the biases, without a gradient to the masks. The original
                adds nothing and learns from scratch that a mask should look at itself; short trainings cannot.
            grid_start: Amplitude of `ovseg.meta_arch.san.grid_start`; 0 for the random start of the original.

        Raises:
            ConfigError: The last block is not supervised, or a number does not fit.
        """
        super().__init__()
        self.patch, self.supervised = patch, tuple(sorted(supervised_blocks))
        self.table_grid = (image_size // patch,) * 2
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.pos_embed = nn.Parameter(torch.empty(1, self.table_grid[0] * self.table_grid[1], width))
        self.query_embed, self.query_pos_embed = (nn.Parameter(torch.empty(1, queries, width)) for _ in range(2))
        self.blocks = nn.ModuleList(SideBlock(width, heads) for _ in range(depth))
        self.fusion = {side: tap for tap, side in _checked(width, depth, heads, fusion, supervised_blocks)}
        self.fusion_layers = nn.ModuleDict({str(side): Fusion(clip_width, width) for side in sorted(self.fusion)})
        self._start(grid_start)
        shape = (bias_layers, bias_heads or clip_heads, channels)
        self.mask_decoder = MaskDecoder(width, hidden, mlp_layers, shape, rescale_bias, mask_bias)

    def _start(self, grid_start: float) -> None:
        """Give the transformer its first values."""
        self.apply(_init_linear)
        for table in (self.pos_embed, self.query_embed, self.query_pos_embed):
            nn.init.trunc_normal_(table, std=0.02)
        if grid_start:
            start_on_grid(self, grid_start)

    @property
    def taps(self) -> tuple[int, ...]:
        """The taps of CLIP that are wanted."""
        return tuple(sorted(set(self.fusion.values())))

    def forward(self, images: Tensor, taps: Mapping[int, Tensor], all_stages: bool = False) -> list[Stage]:
        """Propose masks.

        Args:
            images: Normalised (B, 3, H, W); sides are floored to patches.
            taps: CLIP's patch tokens (B, C, h', w') by number, at least those of `taps`.
            all_stages: Whether to return every supervised stage, as training needs, and not the last alone.
        """
        patches = self.patch_embed(images)
        grid = (patches.shape[2], patches.shape[3])
        position = torch.cat(
            [self.query_pos_embed[0], resize_patches(self.pos_embed[0], self.table_grid, grid, "bicubic")]
        )
        queries = self.query_embed.expand(len(images), -1, -1)
        tokens = torch.cat([queries, patches.flatten(2).mT.to(queries.dtype)], dim=1) + position
        tokens = self._fuse(0, tokens, taps, grid)
        wanted = self.supervised if all_stages else self.supervised[-1:]
        stages = []
        for index, block in enumerate(self.blocks, 1):
            tokens = self._fuse(index, block(tokens), taps, grid)
            if index in wanted:
                count = queries.shape[1]
                stages.append(self.mask_decoder(tokens[:, :count], tokens[:, count:], grid))
            tokens = tokens + position
        return stages

    def _fuse(self, index: int, tokens: Tensor, taps: Mapping[int, Tensor], grid: tuple[int, int]) -> Tensor:
        """Add a tap of CLIP to the patches behind a block, if it gets one."""
        if index not in self.fusion:
            return tokens
        added = self.fusion_layers[str(index)](taps[self.fusion[index]], grid)
        count = tokens.shape[1] - added.shape[1]
        return torch.cat([tokens[:, :count], tokens[:, count:] + added], dim=1)


class SideBlock(nn.Module):
    """A pre-norm transformer block: attention and a feed-forward half with exact GELU."""

    def __init__(self, width: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run on tokens (B, N, C)."""
        query, key, value = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.proj(mixed.transpose(1, 2).flatten(2))
        return tokens + self.fc2(F.gelu(self.fc1(self.norm2(tokens))))


class Fusion(nn.Module):
    """Brings tokens of CLIP to the width and grid of the side adapter."""

    def __init__(self, clip_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(clip_width, eps=1e-6)
        self.proj = nn.Linear(clip_width, width)

    def forward(self, tap: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return (B, h * w, width) of a tap (B, C, h', w')."""
        projected = self.proj(self.norm(tap.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return F.interpolate(projected, grid, mode="bilinear", align_corners=False).flatten(2).mT


class MaskDecoder(nn.Module):
    """Masks and attention biases as products of queries and patches, each behind an MLP of its own."""

    def __init__(
        self,
        width: int,
        hidden: int,
        mlp_layers: int,
        bias_shape: tuple[int, int, int],
        rescale: bool,
        mask_bias: float,
    ) -> None:
        super().__init__()
        self.bias_shape, self.mask_bias = bias_shape, mask_bias
        bias_layers, bias_heads, channels = bias_shape
        self.query_mlp = Mlp(width, hidden, channels, mlp_layers)
        self.pix_mlp = Mlp(width, hidden, channels, mlp_layers)
        self.attn_mlp = Mlp(width, hidden, channels * bias_layers * bias_heads, mlp_layers)
        self.bias_scaling = nn.Linear(1, 1) if rescale else nn.Identity()

    def forward(self, queries: Tensor, patches: Tensor, grid: tuple[int, int]) -> Stage:
        """Decode queries (B, Q, C) and patches (B, h * w, C)."""
        own = self.query_mlp(queries)
        masks = (own @ self.pix_mlp(patches).mT).unflatten(2, grid)
        keys = self.attn_mlp(patches).unflatten(2, self.bias_shape).permute(2, 0, 3, 4, 1)  # (layers, B, heads, c, N)
        scores = (own[:, None] @ keys).unflatten(-1, grid)
        biases = self.bias_scaling(scores[..., None])[..., 0]
        if self.mask_bias:
            biases = biases + self.mask_bias * masks.detach()[:, None]
        return Stage(masks, list(biases), queries, patches.mT.unflatten(2, grid))


class Mlp(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (layers - 1), outputs]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """Run on (..., inputs)."""
        for index, layer in enumerate(self.layers):
            x = layer(F.relu(x) if index else x)
        return x


def read_fusion(pairs: Sequence[str]) -> dict[int, int]:
    """Read ``("0->0", "3->1")``: block of CLIP -> block of the side adapter.

    Raises:
        ConfigError: An entry is not of this form.
    """
    found = {}
    for pair in pairs:
        tap, arrow, side = pair.partition("->")
        if not arrow or not tap.strip().isdigit() or not side.strip().isdigit():
            raise ConfigError(f"fusion has '{pair}'; expected two numbers such as '3->1'")
        found[int(tap)] = int(side)
    return found


def _init_linear(module: nn.Module) -> None:
    """Start blocks as timm does, and fusion as Detectron2's c2_xavier_fill."""
    if isinstance(module, SideBlock):
        for layer in (module.qkv, module.proj, module.fc1, module.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    elif isinstance(module, Fusion):
        nn.init.kaiming_uniform_(module.proj.weight, a=1)
        nn.init.zeros_(module.proj.bias)


def _checked(
    width: int, depth: int, heads: int, pairs: Sequence[str], supervised: Sequence[int]
) -> ItemsView[int, int]:
    """Refuse numbers that do not fit; returns the pairs of the fusion."""
    fusion = read_fusion(pairs)
    if width % heads:
        raise ConfigError(f"the side adapter is {width} wide with {heads} heads; expected heads that divide the width")
    if not supervised or max(supervised) != depth or min(supervised) < 1:
        raise ConfigError(
            f"supervised blocks are {list(supervised)}; expected numbers from 1 with {depth}, the last, among them"
        )
    if len(set(fusion.values())) < len(fusion) or not all(0 <= side <= depth for side in fusion.values()):
        raise ConfigError(f"taps go to blocks {sorted(fusion.values())}; expected different ones from 0 to {depth}")
    return fusion.items()
