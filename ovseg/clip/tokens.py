"""The tokens of an image-text tower, and what it has; what it has not, it refuses in one sentence."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor

STREAM = "tokens of patches that pass through residual blocks"
ATTENTION = "the queries, keys and values of its blocks"
CLASS_TOKEN = "a class token"
CLASS_EMBEDDING = "a class token that becomes its embedding of an image"
HEADS_ADD = "attention that is a sum over its heads"
LEVELS = "levels of feature maps"
_FITTING = {
    STREAM: "a vision transformer such as ViT-B-16 or ViT-L-14",
    ATTENTION: "a vision transformer such as ViT-B-16 or ViT-L-14",
    CLASS_TOKEN: "a vision transformer with one, such as ViT-B-16 or ViT-L-14",
    CLASS_EMBEDDING: "one with pool_type 'tok', such as ViT-B-16 or any other ViT of OpenAI's",
    HEADS_ADD: "one without scale_attn and scale_attn_inner, such as ViT-B-16 or any other ViT of OpenAI's",
    LEVELS: "a ConvNeXt or ResNet such as convnext_large_d_320 or RN50, or a ViT by `ovseg.clip.vit_levels.ViTPyramid`",
}
"""What a tower may have, and which ones do."""


class Block(ABC):
    """A residual block of attention and a feed-forward half, as operations that a method puts together anew.

    Attributes:
        heads: Number of attention heads.
        scale: ``head_dim ** -0.5``, what the scores of q and k are multiplied with.
    """

    heads: int
    scale: float

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the attention sees them, after the first norm."""

    @abstractmethod
    def qkv(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, heads, N, d), of tokens (B, N, C); the first norm is inside."""

    @abstractmethod
    def project(self, heads: Tensor) -> Tensor:
        """Join heads (B, heads, N, d) to what attention adds to the tokens (B, N, C)."""

    @abstractmethod
    def second_norm(self, tokens: Tensor) -> Tensor:
        """Return the tokens (B, N, C) as the feed-forward half sees them."""

    @abstractmethod
    def feed_forward(self, tokens: Tensor) -> Tensor:
        """Return what the feed-forward half adds to tokens (B, N, C)."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Run the block as CLIP has it: (B, N, C) to (B, N, C)."""
        tokens = tokens + self.project(F.scaled_dot_product_attention(*self.qkv(tokens)))
        return tokens + self.feed_forward(tokens)

    def with_attention(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the block and return also its attention weights (B, heads, N, N)."""
        query, key, value = self.qkv(tokens)
        weights = (query @ key.mT * self.scale).softmax(-1)
        tokens = tokens + self.project(weights @ value)
        return tokens + self.feed_forward(tokens), weights
