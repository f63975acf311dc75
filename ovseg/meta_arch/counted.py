"""Which names of a class count in models that make a map for every word: rules for what their texts are."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch.nn.functional as F

from ovseg.errors import ConfigError
from ovseg.system.values import some
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.queries import Queries
from ovseg.vocabulary.templates import TEMPLATES, check_templates

ALL, FIRST, MEAN = "all", "first", "mean"
"""The best of a class's names counts, what it is called alone, or the mean of its names in each template."""
Asked = TypeVar("Asked", bound=Queries)


def with_first(vocabulary: Vocabulary) -> tuple[Vocabulary, tuple[str, ...]]:
    """Return a vocabulary without synonyms, and a note where there were some."""
    left = [name for entry in vocabulary for name in entry.names[1:]]
    if not left:
        return vocabulary, ()
    entries = tuple(replace(entry, names=entry.names[:1]) for entry in vocabulary)
    note = f"synonyms do not count (NAMES: first), {len(left)} are left out: {some(left)}"
    return Vocabulary(entries, vocabulary.notes), (note,)


def with_means(words: Asked) -> Asked:
    """Return words in which each class has one row in each template, the mean of its names', and its first name.

    Kinds of a class (``SUBCLASSES``) count among its names. A note says what was averaged.
    """
    first: dict[int, int] = {}  # of each column the place of its first row
    columns_of = words.columns.tolist()
    for place, column in enumerate(columns_of):
        first.setdefault(column, place)
    if len(first) == len(columns_of):
        return words
    columns = words.columns.to(words.embeddings.device)
    sums = words.embeddings.new_zeros(len(first), *words.embeddings.shape[1:]).index_add_(0, columns, words.embeddings)
    places = [first[column] for column in range(len(first))]
    names = [words.texts[place] for place, column in enumerate(columns_of) if place != first[column]]
    told = f"{len(names)} besides the first: {some(names)}"
    return replace(
        words,
        embeddings=F.normalize(sums, dim=-1),
        query_to_class=words.query_to_class[places],
        texts=tuple(words.texts[place] for place in places),
        notes=(*words.notes, f"names of a class are averaged in each template (NAMES: mean); {told}"),
    )


def check_prompts(templates: str, prompts: int) -> str:
    """Return the name of a template set, each template of which is a channel of a model with so many.

    Raises:
        UnknownNameError: There is no such set.
        ConfigError: It has another number of templates.
    """
    if (count := len(TEMPLATES[check_templates(templates)])) != prompts:
        raise ConfigError(
            f"the {count} templates of '{templates}' do not fit: each is a channel of this model, which has "
            f"{prompts}; leave templates out"
        )
    return templates


def note_of_most(most: int, count: int) -> tuple[str, ...]:
    """Return a note where each view is compared with some words alone; ``most`` 0 is no bound."""
    if not 0 < most < count:
        return ()
    return (
        f"each view of an image is compared with the {most} nearest of {count} words, synonyms and those of the "
        f"background included, as in the original (MOST: {most}); 0 compares all",
    )


def note_of_left(count: int, kept: int, why: str) -> tuple[str, ...]:
    """Return a note where only some words have a map of an image."""
    return (f"{count - kept} of {count} words take no part in this image, {why}",) if kept < count else ()
