"""Heads that pool by attention: what they make of an image, and of each token by itself.

Attention pools by a mean of values, weighted anew for each image. So a token by itself has its own value, the weight 1,
and all that follows the mean: output projection, norm and feed-forward half. That is how MaskCLIP (arXiv 2112.01071)
takes the attention pool of CLIP's ResNet apart, and where all tokens are the same it is what the pool gives.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ovseg.errors import ConfigError


class LatentPool:
    """Timm's `AttentionPoolLatent`: a learned query looks at all tokens, and a feed-forward half follows (SigLIP, PE).

    Args:
        module: The pool.

    Raises:
        ConfigError: It is another one, or adds position embeddings of its own.
    """

    def __init__(self, module: Any) -> None:
        kind = type(module).__name__
        if kind != "AttentionPoolLatent" or module.pos_embed is not None:
            what = "AttentionPoolLatent with position embeddings" if kind == "AttentionPoolLatent" else kind
            raise ConfigError(f"the image tower pools by an unknown attention ({what}); expected AttentionPoolLatent")
        self.module = module

    def each(self, tokens: Tensor) -> Tensor:
        """Bring tokens (B, N, C), each by itself, to where the pool brings an image: (B, N, C')."""
        pool = self.module
        joined = pool.kv(tokens)
        found: Tensor = pool.proj(joined[..., joined.shape[-1] // 2 :])
        return found if pool.mlp is None else found + pool.mlp(pool.norm(found))


class QueryPool:
    """open_clip's `AttentionalPooler`: learned queries look at all tokens (CoCa).

    Args:
        module: The pool.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def each(self, tokens: Tensor) -> Tensor:
        """Bring tokens (B, N, C), each by itself, to where the pool brings an image: (B, N, C')."""
        return own_values(self.module.attn, self.module.ln_k(tokens))


class ProbePool:
    """The head of transformers' SigLIP: a learned query looks at all tokens, and a feed-forward half follows.

    Args:
        module: The head.
    """

    def __init__(self, module: Any) -> None:
        self.module = module

    def each(self, tokens: Tensor) -> Tensor:
        """Bring tokens (B, N, C), each by itself, to where the head brings an image: (B, N, C)."""
        head = self.module
        found = own_values(head.attention, tokens)
        mixed: Tensor = found + head.mlp(head.layernorm(found))
        return mixed


def own_values(attention: Any, tokens: Tensor) -> Tensor:
    """Return what PyTorch's multi-head attention gives where it looks at one token of (B, N, C) alone: (B, N, C')."""
    size: int = attention.embed_dim
    packed = attention.in_proj_weight  # where keys and values are as wide as queries
    weight = attention.v_proj_weight if packed is None else packed[2 * size :]
    found: Tensor = attention.out_proj(F.linear(tokens, weight, attention.in_proj_bias[2 * size :]))
    return found
