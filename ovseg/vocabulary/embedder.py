"""From words to text embeddings: each name in every template, through the text tower once, then never again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ovseg.errors import WeightsError
from ovseg.vocabulary.cache import TextCache, text_space
from ovseg.vocabulary.names import fold, shown
from ovseg.vocabulary.templates import fill, resolve_templates
from ovseg.vocabulary.vocabulary import Vocabulary
from ovseg.vocabulary.words import CURRENT_WORDS, WORD_LISTS

if TYPE_CHECKING:
    from ovseg.vocabulary.background import Background

PROMPTS_PER_CALL = 256
TEXTS_PER_SAVE = 1024
"""After so many new texts the cache is written, so that an interrupted run over a long list keeps what it has."""


class TextTower(Protocol):
    """What the embedder needs of a CLIP."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def weights_hash(self) -> str:
        """Changes with every change of the weights."""

    def text(self, texts: list[str], /) -> Tensor:
        """Embed texts: (N, D), any length, dtype and device."""


@dataclasses.dataclass(frozen=True)
class Queries:
    """What the classifier compares image features with.

    Attributes:
        embeddings: Float32 unit rows on the CPU, ``(T, D)``: the names of all classes, class by class, then the words
            of no class.
        query_to_class: Class id of each query, ``(T,)`` int64; -1 for background and contrast words.
        notes: One-line remarks for the result: what was added or left out, and why.
    """

    embeddings: Tensor
    query_to_class: Tensor
    notes: list[str] = dataclasses.field(default_factory=list)

    def rows(self, cls: Tensor) -> Tensor:
        """Return the embeddings (T, D) to compare an image with, whose own embedding is ``cls`` (B, D)."""
        return self.embeddings


class TextEmbedder:
    """Embeds names with the templates of a set, averaged, and remembers them on disk.

    Args:
        clip: A CLIP with a text tower.
        templates: Name of a template set, or sentences with one ``{}`` each.
        cache: Where embeddings are kept between runs; None keeps nothing.

    Raises:
        UnknownNameError: No template set has this name.
        VocabularyError: A template of the user's own is not allowed.
    """

    def __init__(
        self, clip: TextTower, templates: str | Iterable[str] = "openai80", cache: TextCache | None = None
    ) -> None:
        self.clip = clip
        self.templates = resolve_templates(templates)
        self.cache = cache

    def embed(self, texts: list[str]) -> Tensor:
        """Embed names: per template the text tower's answer at unit length, their mean, again at unit length.

        Args:
            texts: Any names; repeated ones cost nothing. Empty gives ``(0, 0)``.

        Returns:
            Float32 unit rows ``(N, D)`` on the CPU, in the order of ``texts``.

        Raises:
            WeightsError: The text tower gives values that are not finite, or zero vectors.
        """
        space = text_space(self.clip.name, self.clip.weights_hash, _precision(self.clip), self.templates)
        wanted = list(dict.fromkeys(texts))
        rows = self.cache.get(space, wanted) if self.cache else {}
        missing = [text for text in wanted if text not in rows]
        for start in range(0, len(missing), TEXTS_PER_SAVE):
            part = missing[start : start + TEXTS_PER_SAVE]
            fresh = self._compute(part)
            rows.update(zip(part, fresh, strict=True))
            if self.cache:
                self.cache.put(space, part, fresh)
        return torch.stack([rows[text] for text in texts]) if texts else torch.empty(0, 0)

    def embed_vocabulary(self, vocabulary: Vocabulary, background: Background) -> Queries:
        """Embed all names of a vocabulary and the words that stand for "none of them".

        Background words come behind the user's and map to class -1, so ids never change. Words that the user's list
        holds already are left out. With a single class and no background words every pixel would get that class,
        whatever it shows; then the shipped words serve as contrast.

        Raises:
            WeightsError: As `embed`.
        """
        own = {fold(name) for name in vocabulary.queries}
        notes = []
        extra = [word for word in background.words if fold(word) not in own]
        if skipped := [word for word in background.words if fold(word) in own]:
            notes.append(f"background words that are classes here were left out: {', '.join(skipped)}")
        if len(vocabulary) == 1 and not extra:
            extra = [word for word in WORD_LISTS[CURRENT_WORDS] if fold(word) not in own]
            notes.append(
                f"a single class has nothing to differ from: {len(extra)} contrast words ({CURRENT_WORDS}) take part;"
                " pixels that fit one of them better get no class"
            )
        embeddings = self.embed([*vocabulary.queries, *extra])
        return Queries(embeddings, torch.tensor([*vocabulary.query_to_class, *[-1] * len(extra)]), notes)

    def _compute(self, texts: list[str]) -> Tensor:
        """Ask the text tower; (N, D) float32 unit rows on the CPU."""
        count = len(self.templates)
        per_call = max(1, PROMPTS_PER_CALL // count)
        means = []
        for start in range(0, len(texts), per_call):
            part = texts[start : start + per_call]
            prompts = [fill(template, text) for text in part for template in self.templates]
            calls = range(0, len(prompts), PROMPTS_PER_CALL)  # several only where one name has more templates than fit
            found = torch.cat([self.clip.text(prompts[i : i + PROMPTS_PER_CALL]).detach().float() for i in calls])
            means.append(_unit(_unit(found).unflatten(0, (len(part), count)).mean(1)).cpu())
        result = torch.cat(means)
        bad = ~torch.isfinite(result).all(1)
        if bad.any():
            word = texts[int(bad.nonzero()[0])]
            raise WeightsError(
                f"the text tower of {self.clip.name} gives no finite embedding for {shown(word)}; "
                "the weights are damaged or the dtype is too small, try dtype fp32 or load the weights anew"
            )
        return result


def _unit(rows: Tensor) -> Tensor:
    """Scale rows to unit length; a zero row becomes NaN, on purpose, for it has no direction."""
    return rows / rows.norm(dim=-1, keepdim=True)


def _precision(clip: TextTower) -> str:
    """Return the dtype the tower computes in: half precision must not answer for full precision from the cache."""
    parameter = next(clip.parameters(), None) if isinstance(clip, torch.nn.Module) else None
    return str(parameter.dtype if parameter is not None else torch.float32)
