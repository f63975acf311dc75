"""What all architectures share about words: the text tower, the cache of its answers, and the current vocabulary."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ovseg.errors import ConfigError, EnvironmentProblem
from ovseg.vocabulary import (
    Background,
    Queries,
    TextCache,
    TextEmbedder,
    TextOptions,
    Vocabulary,
    parse_background,
    resolve_templates,
)


class WordedModel(nn.Module):
    """A model whose classes are words that may change between two calls; nothing in its weights depends on them.

    Attributes:
        clip: The frozen CLIP; its text tower embeds the words.
        text: How the texts of a vocabulary are engineered.
        default_templates, default_background: Those of the config.
        vocabulary, background, templates, queries: Those of the last `set_vocabulary`; vocabulary and queries are None
            before the first.
        placed: Whether `place` was called: then the text tower leaves the device whenever words have been embedded.
        full_scores: Whether calls also return ``sem_seg`` (K, H, W), for evaluators that want it.
    """

    def __init__(self, clip: Any, templates: str, background: str, text: TextOptions | None = None) -> None:
        """Check the words' settings of a config, so that its mistakes come to light before the first image."""
        super().__init__()
        resolve_templates(templates)
        self.clip = clip
        self.default_templates, self.default_background = templates, background
        self.text = text or TextOptions()
        self.full_scores = True
        self.placed = False
        self.vocabulary: Vocabulary | None = None
        self.background: Background = parse_background(background)
        self.templates = templates
        self.queries: Queries | None = None

    def place(self, device: torch.device, dtype: torch.dtype) -> WordedModel:
        """Move to a device for inference, in a dtype; models with a policy of their own say what becomes of it."""
        self.placed = True
        return self.to(device, dtype)

    def pack(self) -> None:
        """Lay weights out as the CPU multiplies them.

        Raises:
            ConfigError: Models of this kind cannot.
        """
        raise ConfigError(f"{type(self).__name__} has no packed weights; leave packed out, or take a model with masks")

    def compile_network(self, backend: str = "inductor") -> None:
        """Compile what does not depend on words.

        Raises:
            ConfigError: Models of this kind cannot.
        """
        raise ConfigError(f"{type(self).__name__} is not compiled; leave compile out, or take a model with masks")

    @property
    def weights_hash(self) -> str:
        """Hash of the frozen weights; models with more weights than those of CLIP add theirs."""
        return self.clip.weights_hash

    @cached_property
    def text_cache(self) -> TextCache | None:
        """The cache of text embeddings, opened once, for it remembers what it has read of its files.

        Where there can be none (a read-only home), it warns and goes on without.
        """
        try:
            return TextCache()
        except EnvironmentProblem as problem:
            warnings.warn(f"{problem}; going on without a text cache", RuntimeWarning, stacklevel=3)
            return None

    def set_vocabulary(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Queries:
        """Choose the words of the following calls; embeds what the cache on disk does not know yet.

        Args:
            vocabulary: The classes.
            background: A policy; None is the one of the config.
            templates: Name of a template set; None is the one of the config.

        Raises:
            VocabularyError: The policy cannot be used.
            UnknownNameError: No such policy or template set.
            ConfigError: AutoCLIP has but one template.
        """
        policy = parse_background(self.default_background if background is None else background)
        chosen = templates or self.default_templates
        same = self.vocabulary == vocabulary and (self.background, self.templates) == (policy, chosen)
        if self.queries is None or not same:
            embedder = TextEmbedder(self.clip, chosen, self.text_cache, self.text)
            self.queries = embedder.embed_vocabulary(vocabulary, policy)
            if self.placed:
                self.clip.move_text(torch.device("cpu"))  # the next images need the room, and few lists follow
        self.vocabulary, self.background, self.templates = vocabulary, policy, chosen  # colours may be new
        return self.queries

    def check_vocabulary(self) -> Queries:
        """Return the current queries.

        Raises:
            ConfigError: No vocabulary has been set.
        """
        if self.queries is None:
            raise ConfigError(
                "the model has no vocabulary; call model.set_vocabulary(Vocabulary.parse(['cat', 'sofa'])) first"
            )
        return self.queries

    def columns(self) -> tuple[Tensor, Tensor]:
        """Return the columns of class scores: one for each class, then one for each word of no class.

        Returns:
            The column (T,) int64 of each query, and the class (K + W,) int64 of each column, -1 for words of no class.
        """
        classes = self.check_vocabulary().query_to_class
        rest = classes < 0
        count, words = int(classes.max()) + 1, int(rest.sum())
        columns = classes.where(~rest, count - 1 + rest.cumsum(0))
        return columns, torch.cat([torch.arange(count), torch.full((words,), -1)])
