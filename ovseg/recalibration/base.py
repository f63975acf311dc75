"""The seam: what a training-free method changes in the last blocks of CLIP, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ovseg.clip.features import Context, DenseFeatures, Kept, Need
from ovseg.clip.position import RULES
from ovseg.clip.tokens import ATTENTION, STREAM, Block, TokenTower
from ovseg.clip.tower import Tower
from ovseg.errors import ConfigError, one_of
from ovseg.system.registry import Kind, build, find, names
from ovseg.system.values import options_in_force

if TYPE_CHECKING:
    from ovseg.contract import Answer, Words
    from ovseg.labelling.shares import ClassShares

RECALIBRATION_REGISTRY = Registry("RECALIBRATION")
RECALIBRATION_REGISTRY.__doc__ = "Training-free methods by the name of their class; see `recalibration_class`."


class Recalibration(nn.Module):
    """Runs the handed-over blocks as CLIP would; a method overrides the least it can, most often `attention` alone.

    The hooks from the inside out: `attention`, `run_block`, `run` change tokens, `joint` how they come to the joint
    space, `patch_scores` how features and texts become scores, `region_maps` which regions share a label, `encode`
    what is encoded at all, `overview` what windows know of the whole image, `finish` what becomes of the answer. It is
    a module so that trained heads and second backbones move to its device with it.

    A subclass states its own values of the class attributes. Users may change the first three by keyword options, which
    is what the ablations of the papers do.

    Attributes:
        residual: Whether the tokens that enter a block are added to what its attention gives.
        feed_forward: Whether the feed-forward half runs (with its own residual).
        pos_resize: Rule by which position embeddings are resized; see `ovseg.clip.position`.
        blocks: How many of the last blocks are handed over.
        needs: What to record of the blocks before them; it is found in the context.
        uses_regions: Whether it wants region ids of the pixels (``context.regions``) from a region generator.
        whole_image: Whether it must see the image in one window.
        sees_photo: Whether it sees photographs beside CLIP's view of them, by `see_photos` and `encode_photos`.
        attention_only: Whether it changes nothing but the attention of the last blocks: one pass, no second backbone.
        requires: What a tower must have, of the names of `ovseg.clip.tokens`; others are refused before anything runs.
            One that needs `DENSE` alone runs on towers without blocks, too, where none of the hooks up to `joint` runs.
        own_values: On such towers, whether each place keeps its own value where attention pools the image.
        not_compiled: Why `encode` cannot be compiled as one graph; empty where it can, but for its guide.
        not_exported: Why a graph cannot compare what it gives with words, by `patch_scores` of features and embedding
            of an image alone; empty where it can.
        flat: Whether the scores of a text are nearly the same all over an image, so that rounding decides labels where
            each map is stretched to 0..1 (``PROTOCOL.MIN_MAX``).
        without_golden: Why a method has no golden case of its own; empty where it has.
    """

    residual: bool = True
    feed_forward: bool = True
    pos_resize: str = "bicubic_offset"
    blocks: int = 1
    needs: Need = Need()
    uses_regions: ClassVar[bool] = False
    whole_image: ClassVar[bool] = False
    sees_photo: bool = False
    attention_only: ClassVar[bool] = True
    requires: frozenset[str] = frozenset({STREAM, ATTENTION})
    own_values: bool = False
    not_compiled: ClassVar[str] = ""
    not_exported: str = ""
    flat: ClassVar[bool] = False
    without_golden: ClassVar[str] = ""

    def __init__(
        self, *, residual: bool | None = None, feed_forward: bool | None = None, pos_resize: str | None = None
    ) -> None:
        """Change what all methods have in common; None keeps the value of the method.

        Raises:
            ConfigError: An option has a value that is not allowed.
        """
        super().__init__()
        if residual is not None or feed_forward is not None:
            self.requires = self.requires | {STREAM}  # to change a block there must be one
        if residual is not None:
            self.residual = residual
        if feed_forward is not None:
            self.feed_forward = feed_forward
        if pos_resize is not None:
            self.pos_resize = one_of("pos_resize", pos_resize, RULES)

    @property
    def name(self) -> str:
        """Name under which the method is registered."""
        return type(self).__name__

    @property
    def options(self) -> dict[str, Any]:
        """The options in force, as JSON values; recorded in results."""
        return options_in_force(self)

    @staticmethod
    def fitting(has: frozenset[str]) -> list[str]:
        """Return the names of the methods that a tower fits which has these of `ovseg.clip.tokens`."""
        return [name for name in list_recalibrations() if recalibration_class(name).requires <= has]

    def why_not_compiled(self) -> str:
        """Return why `encode` cannot be compiled as one graph, for the method or for its guide; empty if it can."""
        own = (self.not_compiled, *(getattr(part, "not_compiled", "") for part in self.children()))
        return next((f"in {self.name} {reason}" for reason in own if reason), "")

    def why_not_exported(self) -> str:
        """Return why no graph can hold the method, or its guide; empty if one can."""
        return f"in {self.name} {self.not_exported}" if self.not_exported else self.why_not_compiled()

    def check_tower(self, tower: TokenTower) -> None:
        """Refuse a tower for reasons of the method's own; most have none but what they say by `requires` and `blocks`.

        Raises:
            ConfigError: It does not fit; says why.
        """

    def remarks(self, tower: TokenTower) -> tuple[str, ...]:
        """Return what every result of the method on a tower should say, a line each; nothing for most."""
        return ()

    def blocks_of(self, depth: int) -> int:
        """Return how many of the last of ``depth`` blocks are handed over."""
        return self.blocks

    def needs_of(self, depth: int) -> Need:
        """Return what to record of the blocks before them."""
        return self.needs

    def attention(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Mix values by attention: q, k, v and the result are (B, heads, N, d); for parts of them see `Tower.split`."""
        return attend(q, k, v)

    def weights(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Return the weights (B, heads, N, N) by which `attention` mixes values; for inspection, not for speed.

        Most methods ask queries and keys alone; those that ask the values, too, say so here.
        """
        identity = torch.eye(q.shape[2], dtype=q.dtype, device=q.device).expand(*q.shape[:2], -1, -1)
        return self.attention(q, k, identity, context)

    def run(self, tokens: Tensor, blocks: Sequence[Block], context: Context) -> Tensor:
        """Take tokens (B, N, C) through the handed-over blocks, ordinarily one."""
        for block in blocks:
            tokens = self.run_block(tokens, block, context)
        return tokens

    def run_block(self, tokens: Tensor, block: Block, context: Context) -> Tensor:
        """Take tokens (B, N, C) through one block with the attention, residual and feed-forward of the method."""
        attended = block.project(self.attention(*block.qkv(tokens), context))
        tokens = tokens + attended if self.residual else attended
        return tokens + block.feed_forward(tokens) if self.feed_forward else tokens

    def joint(self, tokens: Tensor, context: Context) -> DenseFeatures:
        """Bring the tokens (B, N, C) that `run` returned to the joint space, by the head of CLIP."""
        joint, cls = context.tower.head(tokens)
        return DenseFeatures(context.lay_out(joint), cls, context.grid, context)

    def patch_scores(self, dense: DenseFeatures, words: Words) -> Tensor:
        """Return the scores (B, T, h, w) of patches and texts that are upsampled; cosines for most.

        Like `region_maps` it leaves nothing behind: the same features may be compared with several words at once.
        """
        return dense.cosines(words.rows(dense.cls))

    @property
    def finer(self) -> int:
        """How many times as fine as the grid of the features scores are, along each side; 1 for most.

        Where it is more, scores of a query do not depend on the other queries, and `some_scores` is asked in the place
        of `patch_scores`, window by window: those of all queries may be too many to be held.
        """
        return 1

    def some_scores(self, dense: DenseFeatures, words: Words, queries: Tensor) -> Tensor:
        """Return the scores (B, t, H, W) of some queries (t,) int64; else as `patch_scores`."""
        return self.patch_scores(dense, words)[:, queries]

    def of_words(self, clip: TokenTower, words: Words) -> object | None:
        """Return what the method finds out from the words of a request alone, once; `Words.found` has it then."""
        return None

    def region_maps(self, dense: DenseFeatures, words: Words) -> list[Tensor]:
        """Return soft maps (R, a, b) of regions for each image; the regions share labels. Empty for most methods."""
        return []

    def encode(self, clip: Tower, images: Tensor, regions: Tensor | None = None) -> DenseFeatures:
        """Encode normalised images (B, 3, H, W), with region ids (B, H, W) of their pixels if it uses them."""
        return clip.dense(images, self, regions=regions)

    def see_photos(self, clip: Tower, photos: Sequence[np.ndarray]) -> Iterable[Any]:
        """Look at photographs (H', W', 3) RGB uint8 alone: all that `encode_photos` is to know of each.

        It is asked for once, whatever number of CLIPs there is: ``clip`` is the one or the ensemble of all.
        """
        raise NotImplementedError

    def encode_photos(self, clip: Tower, images: Tensor, seen: Iterable[Any]) -> DenseFeatures:
        """Encode normalised images (B, 3, H, W), given what `see_photos` saw of the photographs they are views of.

        It takes the place of `encode` where the method sees photographs.
        """
        raise NotImplementedError

    @property
    def finishes(self) -> bool:
        """Whether it changes answers in `finish`."""
        return type(self).finish is not Recalibration.finish

    def finish(self, dense: DenseFeatures, answer: Answer, shares: Callable[[], ClassShares]) -> Answer:
        """Return the answer as the method leaves it; as it is for most.

        Args:
            dense: What the method has seen of the image.
            answer: Labels and scores by the rules of the protocol.
            shares: Gives the probabilities of the classes, one at a time.
        """
        return answer

    def overview(self, clip: Tower, images: Tensor) -> Kept | None:
        """Return what windows are to know of the normalised images (B, 3, H, W) they lie in; None for most.

        It is asked for once an image where there are several windows, whose contexts then keep it, with one row.
        """
        return None


RECALIBRATIONS: Kind[type[Recalibration]] = Kind("recalibration", RECALIBRATION_REGISTRY)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``softmax(query key^T / sqrt(d) + bias) value`` without ever storing the weights of all heads."""
    if bias is not None:  # PyTorch 2.4 misreads one that is the same for all queries and keys, (1, 1)
        bias = bias.expand(*bias.shape[:-2], query.shape[-2], key.shape[-2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias)


def neighbourhood(grid: tuple[int, int], std: float, device: torch.device | None = None) -> Tensor:
    """Return the bias (h * w, h * w) of pairs of patches: a Gaussian of the distance, peak 1 (NACLIP)."""
    rows, columns = (_gaussian(length, std, device) for length in grid)
    pairs = rows[:, None, :, None] * columns[:, None]  # `torch.kron` would hold a graph for all sizes to one
    return pairs.flatten(2).flatten(0, 1)


def _gaussian(length: int, std: float, device: torch.device | None) -> Tensor:
    places = torch.arange(length, dtype=torch.float32, device=device)
    return torch.exp(-(places[:, None] - places).square() / (2 * std**2))


def layer_index(layer: int | float, depth: int) -> int:
    """Return the index from 0 of a block that an option names.

    Args:
        layer: A Python index (negative from the end), or the share of the depth at which the block ends: 7 / 12 is the
            seventh block of 12 and the fourteenth of 24. Layer lists of papers that know one depth are given so.
        depth: Number of blocks.

    Raises:
        ConfigError: There is no such block.
    """
    index = round(layer * depth) - 1 if isinstance(layer, float) else layer + depth if layer < 0 else layer
    if not 0 <= index < depth:
        raise ConfigError(f"layer {layer} names no block of {depth}; expected -{depth}..{depth - 1} or a share 0..1")
    return index


def list_recalibrations() -> list[str]:
    """Return the names of all registered methods, in the spelling of their papers."""
    return names(RECALIBRATIONS)


def recalibration_class(name: str) -> type[Recalibration]:
    """Look a method up by name, in any case: ``"SCLIP"`` or ``"sclip"``; see `ovseg.system.registry.find`."""
    return find(RECALIBRATIONS, name)


def build_recalibration(name: str, **options: Any) -> Recalibration:
    """Build a method by name and the keyword options of its class; see `ovseg.system.registry.build`."""
    return build(RECALIBRATIONS, name, options)
