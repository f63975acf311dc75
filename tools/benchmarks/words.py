"""Words with random embeddings, for models with random weights: they come out of a text cache, no tower is asked."""

from __future__ import annotations

import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg.contract import Words
from ovseg.vocabulary import TextCache, TextEmbedder, Vocabulary


@dataclass(frozen=True)
class RandomTexts:
    """Embeds texts at random, a text always alike, under the name of a CLIP.

    Attributes:
        name: Of the CLIP.
        weights_hash: Likewise.
        dim: Of its joint space.
    """

    name: str
    weights_hash: str
    dim: int

    def text(self, texts: list[str]) -> Tensor:
        """Embed texts: (N, dim)."""
        seeds = (zlib.crc32(text.encode()) for text in texts)
        return torch.stack([torch.randn(self.dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def remember(clip: Any, vocabulary: Vocabulary, templates: str, folder: Path | None = None) -> TextCache:
    """Put random embeddings of all words of a vocabulary into a text cache, as if a CLIP had made them.

    Args:
        clip: The CLIP.
        vocabulary: The words.
        templates: Name of a template set.
        folder: Of the cache; None is that of ovseg.
    """
    cache = TextCache(folder)
    tower = RandomTexts(clip.name, clip.weights_hash, clip.embed_dim)
    TextEmbedder(tower, templates, cache).embed(vocabulary.queries)
    return cache


def random_words(model: Any, vocabulary: Vocabulary) -> Words:
    """Return words of a model with random embeddings, without templates; nothing of them stays on disk."""
    with tempfile.TemporaryDirectory() as folder:
        model.text_cache = remember(model.clip, vocabulary, "none", Path(folder))
        words: Words = model.words(vocabulary, templates="none")
    model.text_cache = None
    return words


def plain_vocabulary(classes: int) -> Vocabulary:
    """Return so many classes of one name each."""
    return Vocabulary.parse([f"thing {i}" for i in range(classes)])


def vocabulary_with_synonyms(classes: int) -> Vocabulary:
    """Return so many classes of one to four names each."""
    names = [[f"thing {i}", *(f"thing {i} by name {j}" for j in range(i % 4))] for i in range(classes)]
    return Vocabulary.parse(["|".join(own) for own in names])
