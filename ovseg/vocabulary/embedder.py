"""From words to text embeddings: each name in every template, through the text tower once, then never again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

from ovseg.errors import VocabularyError, WeightsError
from ovseg.system.progress import part_of, report
from ovseg.vocabulary.autoclip import AutoClip
from ovseg.vocabulary.cache import TextCache, text_space
from ovseg.vocabulary.engineering import Recipe, plan, unit
from ovseg.vocabulary.lengths import LimitedTower, say_long
from ovseg.vocabulary.names import fold, shown, spoken
from ovseg.vocabulary.queries import Queries
from ovseg.vocabulary.scripts import say_foreign
from ovseg.vocabulary.templates import TEMPLATES, fill, resolve_templates
from ovseg.vocabulary.text_options import TextOptions
from ovseg.vocabulary.vocabulary import Vocabulary
from ovseg.vocabulary.words import CURRENT_WORDS, WORD_LISTS

if TYPE_CHECKING:
    from ovseg.vocabulary.background import Background

PROMPTS_PER_CALL = 8192
"""Many, for a text tower computes once what prompts of a call have in common."""
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


@runtime_checkable
class TunedTower(TextTower, Protocol):
    """One whose weights change by more than what embeds texts."""

    def text_hash(self) -> str:
        """Return what changes with every change of the weights that embed texts."""


class TextEmbedder:
    """Embeds names with the templates of a set, averaged, and remembers them on disk.

    Args:
        clip: A CLIP with a text tower.
        templates: Name of a template set, or sentences with one ``{}`` each.
        cache: Where embeddings are kept between runs; None keeps nothing.
        options: How the texts of a vocabulary are engineered; None leaves them as they are.
        raw: Average what the text tower gives, and leave it at its length: rows are not of unit length anywhere.

    Raises:
        UnknownNameError: No template set has this name.
        VocabularyError: A template of the user's own is not allowed.
        ConfigError: AutoCLIP has but one template.
    """

    def __init__(
        self,
        clip: TextTower,
        templates: str | Iterable[str] = "openai80",
        cache: TextCache | None = None,
        options: TextOptions | None = None,
        raw: bool = False,
    ) -> None:
        self.clip = clip
        self.templates = resolve_templates(templates)
        self.cache, self.raw = cache, raw
        self.options = options or TextOptions()
        self.options.check_templates(len(self.templates))

    def embed(self, texts: list[str]) -> Tensor:
        """Embed names: per template the text tower's answer at unit length, their mean, again at unit length.

        Args:
            texts: Any names; repeated ones cost nothing. Empty gives ``(0, 0)``.

        Returns:
            Float32 unit rows ``(N, D)`` on the CPU, in the order of ``texts``.

        Raises:
            WeightsError: The text tower gives values that are not finite, or zero vectors.
        """
        return self._embed(texts, self.templates)

    def embed_apart(self, texts: list[str]) -> Tensor:
        """Embed names in every template (N, M, D) without the mean; else as `embed`.

        The cache knows each filled template as a sentence of its own, so a text costs M times its place there.
        """
        prompts = [fill(template, text) for text in texts for template in self.templates]
        rows = self.embed_sentences(prompts)
        return rows.unflatten(0, (len(texts), len(self.templates)))

    def embed_sentences(self, sentences: list[str]) -> Tensor:
        """Embed sentences as they are, without a template: unit rows (N, D); else as `embed`."""
        return self._embed(sentences, TEMPLATES["none"])

    def _embed(self, texts: list[str], templates: tuple[str, ...]) -> Tensor:
        weights = self.clip.text_hash() if isinstance(self.clip, TunedTower) else self.clip.weights_hash
        own = (self.clip.name, weights, _precision(self.clip))
        space = text_space(*own, templates, self.options.long_text, self.raw)
        wanted = list(dict.fromkeys(texts))
        rows = self.cache.get(space, wanted) if self.cache else {}
        missing = [text for text in wanted if text not in rows]
        if missing:
            report("texts", 0, len(missing) * len(templates))
        for start in range(0, len(missing), TEXTS_PER_SAVE):
            part = missing[start : start + TEXTS_PER_SAVE]
            with part_of("texts", start * len(templates), len(missing) * len(templates)):
                fresh = self._compute(part, templates)
            rows.update(zip(part, fresh, strict=True))
            if self.cache:
                self.cache.put(space, part, fresh)
        return torch.stack([rows[text] for text in texts]) if texts else torch.empty(0, 0)

    def embed_vocabulary(
        self, vocabulary: Vocabulary, background: Background, apart: bool = False, alone: bool = False
    ) -> Queries:
        """Embed all names of a vocabulary and the words that stand for "none of them", engineered as the options say.

        Background words come behind the user's and map to class -1, so ids never change. Words that the user's list
        holds already are left out. For a single class see `words_of_no_class`.

        Args:
            vocabulary: The classes.
            background: Its words.
            apart: Keep the templates apart: rows (T, M, D) as `embed_apart` gives them, without their mean.
            alone: See `words_of_no_class`.

        Raises:
            WeightsError: As `embed`.
            VocabularyError: Texts of two classes are too long, and what is read of them is the same.
        """
        extra, notes = ([], []) if background.counter else words_of_no_class(vocabulary, background, alone)
        recipe, told = plan(vocabulary, extra, self.options)
        told += say_foreign(self.clip, recipe)
        told += say_long(self.clip, recipe, self.templates, self.options.long_text)
        described = self._describe(recipe)
        classifier = None
        if self.options.autoclip:
            each = self.embed_apart(recipe.texts)
            rows, classifier = unit(each.mean(1)), AutoClip(recipe, each, described)
        elif apart:
            rows = self.embed_apart(recipe.texts).transpose(0, 1)
        else:
            rows = self.embed(recipe.texts)
        composed = self.options.mapped(recipe.compose(rows, described))
        queries = Queries(
            embeddings=composed.transpose(0, 1).contiguous() if apart else composed,
            query_to_class=torch.tensor(recipe.query_to_class),
            texts=(*recipe.names, *recipe.subclasses, *recipe.extra),
            notes=(*vocabulary.notes, *background.notes, *notes, *told),
            classifier=classifier,
        )
        return self._paired(queries, background.counter) if background.counter else queries

    def _paired(self, queries: Queries, counter: str) -> Queries:
        """Put the counter row of each query behind all of them; these belong to no class.

        Raises:
            VocabularyError: The rows of queries are those of an image, or of each template.
        """
        if queries.classifier is not None or queries.embeddings.ndim != 2:
            raise VocabularyError(
                "background policy 'paired' needs one row for each text; set MODEL.TEXT.AUTOCLIP to 0"
            )
        texts = [counter.replace("{}", text) for text in queries.texts]
        return replace(
            queries,
            embeddings=torch.cat([queries.embeddings, self.options.mapped(self.embed(texts))]),
            query_to_class=torch.cat([queries.query_to_class, torch.full((len(texts),), -1)]),
            texts=(*queries.texts, *texts),
        )

    def _describe(self, recipe: Recipe) -> Tensor:
        """Return the mean (P, D) of the sentences of each description, of unit length."""
        rows = self.embed_sentences([sentence for sentences in recipe.sentences for sentence in sentences])
        parts = rows.split([len(sentences) for sentences in recipe.sentences])
        return unit(torch.stack([part.mean(0) for part in parts])) if recipe.sentences else rows

    def _compute(self, texts: list[str], templates: tuple[str, ...]) -> Tensor:
        """Ask the text tower; (N, D) float32 unit rows on the CPU."""
        count = len(templates)
        per_call = max(1, PROMPTS_PER_CALL // count)
        means = []
        for start in range(0, len(texts), per_call):
            part = texts[start : start + per_call]
            with part_of("texts", start * count, len(texts) * count):
                found = self._ask([fill(template, text) for text in part for template in templates])
            rows = found.detach().float()
            rows = (rows if self.raw else unit(rows)).unflatten(0, (len(part), count)).mean(1)
            means.append((rows if self.raw else unit(rows)).cpu())
        result = torch.cat(means)
        bad = ~torch.isfinite(result).all(1)
        if bad.any():
            word = texts[int(bad.nonzero()[0])]
            raise WeightsError(
                f"the text tower of {self.clip.name} gives no finite embedding for {shown(word)}; "
                "the weights are damaged or the dtype is too small, try dtype fp32 or load the weights anew"
            )
        return result

    def _ask(self, prompts: list[str]) -> Tensor:
        if self.options.long_text and isinstance(self.clip, LimitedTower):
            return self.clip.long_text(prompts)
        return self.clip.text(prompts)


def words_of_no_class(
    vocabulary: Vocabulary, background: Background, alone: bool = False
) -> tuple[list[str], list[str]]:
    """Return the words that compete with the classes, and notes on them.

    With a single class and no background words every pixel would get that class, whatever it shows; then the shipped
    words serve as contrast.

    Args:
        vocabulary: The classes.
        background: Its words.
        alone: Whether scores stand alone, so that a threshold of the background says by itself what a single class is
            not, and words that compete would only take pixels from it.
    """
    own = {fold(name) for name in vocabulary.queries}
    notes = []
    extra = [spoken(word) for word in background.words if fold(word) not in own]
    if skipped := [word for word in background.words if fold(word) in own]:
        notes.append(f"background words that are classes here were left out: {', '.join(skipped)}")
    if len(vocabulary) == 1 and not extra and not (alone and background.threshold):
        extra = [word for word in WORD_LISTS[CURRENT_WORDS] if fold(word) not in own]
        notes.append(
            f"a single class has nothing to differ from: {len(extra)} contrast words ({CURRENT_WORDS}) take part;"
            " pixels that fit one of them better get no class"
        )
    return extra, notes


def _precision(clip: TextTower) -> str:
    """Return the dtype the tower computes in: half precision must not answer for full precision from the cache."""
    parameter = next(clip.parameters(), None) if isinstance(clip, torch.nn.Module) else None
    return str(parameter.dtype if parameter is not None else torch.float32)
