"""Texts with learnable words in them: what a frozen text tower makes of embeddings that are no tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ovseg.errors import ConfigError


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


class PromptedSentence(nn.Module):
    """Sentences that differ in learnable words alone (PixelCLIP, arXiv 2409.19846).

    Attributes:
        prompt_tokens: (K, l, W), the learnable words.
    """

    template: Tensor
    holes: Tensor

    def __init__(self, clip: Any, sentence: str, words: int, count: int, seed: int = 0) -> None:
        """Start from random words of the vocabulary.

        Args:
            clip: With a text tower of OpenAI's kind; see `ovseg.clip.base.BaseClip`.
            sentence: With braces where the words go.
            words: How many there are in a sentence, l.
            count: Of sentences, K.
            seed: Of the words that are drawn.

        Raises:
            ConfigError: The text tower is of another kind, or the sentence has no place for the words.
        """
        super().__init__()
        table = getattr(clip.model, "token_embedding", None)
        if table is None or getattr(clip.model, "text_projection", None) is None:
            raise ConfigError(
                f"learnable words need a text tower of OpenAI's kind, which {clip.name} has not; use ViT-B-16/openai"
            )
        ids = clip.text_tokens([sentence.replace("{}", " ".join(["{}"] * words))])[0]
        place = int(clip.text_tokens(["{}"])[0, 1])
        holes = ids == place
        if int(holes.sum()) != words:
            raise ConfigError(
                f"the sentence is '{sentence}'; expected one {{}} and {words} words to fit the text tower"
            )
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(table.num_embeddings - 10, (count, words), generator=generator)
        self.end = int(ids.argmax())
        self.prompt_tokens = nn.Parameter(table(drawn.to(table.weight.device)).detach().clone())
        self.register_buffer("template", table(ids.to(table.weight.device)).detach().clone(), persistent=False)
        self.register_buffer("holes", holes.to(table.weight.device), persistent=False)

    def forward(self, model: Any) -> Tensor:
        """Embed all sentences by an open_clip model: (K, D), not of unit length."""
        return embed_sentences(model, place_prompts(self.template, self.holes, self.prompt_tokens), self.end)
