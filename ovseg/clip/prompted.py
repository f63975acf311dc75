"""Texts with learnable words in them: what a frozen text tower makes of embeddings that are no tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def place_prompts(template: Tensor, holes: Tensor, prompts: Tensor) -> Tensor:
    """Put learnable words into the holes of a sentence.

    Args:
        template: (L, W), the embedded tokens of the sentence.
        holes: (L,) bool, where the words go; as many as there are in a prompt.
        prompts: (K, l, W), the words of K sentences.

    Returns:
        (K, L, W)
    """
    sentences = template.expand(len(prompts), -1, -1)
    filled = torch.zeros_like(sentences).masked_scatter(holes[None, :, None].expand_as(sentences), prompts)
    return torch.where(holes[None, :, None], filled, sentences)


def embed_sentences(model: Any, sentences: Tensor, end: int) -> Tensor:
    """Run a text tower of open_clip, frozen or not, on embedded sentences; gradients flow to these.

    Args:
        model: An open_clip model whose text tower is its own (OpenAI's architecture).
        sentences: (K, L, W).
        end: Place of the token that ends the sentence, whose output is the embedding.

    Returns:
        (K, D), not of unit length.
    """
    length = sentences.shape[1]
    tokens = sentences + model.positional_embedding[:length]
    mask = None if model.attn_mask is None else model.attn_mask[:length, :length]
    tokens = model.ln_final(model.transformer(tokens, attn_mask=mask))[:, end]
    found: Tensor = tokens @ model.text_projection
    return found
