"""Arithmetic on text embeddings: what definitions, descriptions and sub-classes do to the rows of the queries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ovseg.vocabulary.names import fold
from ovseg.vocabulary.text_options import TextOptions
from ovseg.vocabulary.vocabulary import Vocabulary


def mix(texts: Tensor, auxiliary: Tensor, query_to_class: Tensor, weight: float) -> Tensor:
    """Mix the embedding of every query with that of its class's auxiliary text, a definition or a synonym.

    ``t' = (1 - weight) t + weight a``, as in ITACLIP (arXiv 2411.12044, github.com/m-arda-aydn/ITACLIP). The result is
    not scaled to unit length again: rows become shorter the less a query and its auxiliary text agree.

    Args:
        texts: Unit rows (..., T, D) of the queries.
        auxiliary: Unit rows (..., K, D) of the auxiliary texts.
        query_to_class: Row of ``auxiliary`` that each query takes, (T,) int64; queries with -1 stay as they are. So
            ITACLIP's benchmarks with a background, whose class 0 has no auxiliary text, pass their classes minus one.
        weight: Share of the auxiliary text, 0..1.

    Returns:
        Mixed rows (..., T, D).
    """
    index = query_to_class.to(texts.device)
    mixed = (1 - weight) * texts + weight * auxiliary[..., index.clamp_min(0), :]
    return torch.where((index >= 0)[:, None], mixed, texts)


def unit(rows: Tensor) -> Tensor:
    """Scale rows to unit length; a zero row becomes NaN, on purpose, for it has no direction."""
    return rows / rows.norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Recipe:
    """How the rows of queries are made of the rows of texts: descriptions first, then definitions, then sub-classes.

    CHiLS multiplies the probability of a sub-class among all sub-classes by that of its class among all classes. With
    one scale for both softmaxes the logarithm of the product is ``scale (cos(s) + cos(c))`` less what all sub-classes
    share, so rows ``t_s + t_c`` rank them exactly so, and a softmax over them is the product made to sum to 1. Here
    the rows are half of that, which ranks alike: scores stay within those of cosines, and a class or background word
    without sub-classes, which is its own, keeps its row. A softmax at twice the logit scale is the product again.
    As in the label sets of the paper, the names of a class count among its sub-classes.

    Attributes:
        names, subclasses, extra: Texts of the queries in their order: names of classes, sub-classes, words of no class.
        auxiliary: Definitions or synonyms; they are put into the templates as names are.
        sentences: Descriptions, each embedded as it is; row by row those of a class.
        query_to_class: Class of each query, -1 for words of no class.
        first: For each name and then each sub-class the index of the name that stands for its class.
        description, definition: For each name the row of ``sentences`` and of ``auxiliary``, -1 for none.
        options: The options it follows.
    """

    names: list[str]
    subclasses: list[str]
    extra: list[str]
    auxiliary: list[str]
    sentences: list[tuple[str, ...]]
    query_to_class: list[int]
    first: list[int]
    description: list[int]
    definition: list[int]
    options: TextOptions

    @property
    def texts(self) -> list[str]:
        """What is put into templates: the texts of the queries, then the auxiliary texts."""
        return [*self.names, *self.subclasses, *self.extra, *self.auxiliary]

    def compose(self, texts: Tensor, described: Tensor) -> Tensor:
        """Make the rows of the queries.

        Args:
            texts: Unit rows (..., U, D) of `texts`.
            described: Unit rows (P, D) of the descriptions.

        Returns:
            Rows (..., T, D), one for each query.
        """
        sizes = [len(part) for part in (self.names, self.subclasses, self.extra, self.auxiliary)]
        names, subclasses, extra, auxiliary = texts.split(sizes, dim=-2)
        if self.sentences:
            index = _index(self.description, texts)
            row = described.to(texts.device, texts.dtype)[index.clamp_min(0)]
            row = unit(names + row) if self.options.descriptions_with_templates else row
            names = torch.where((index >= 0)[:, None], row, names)
        if self.auxiliary:
            names = mix(names, auxiliary, _index(self.definition, texts), self.options.auxiliary_weight)
        if self.subclasses:
            parents = names[..., _index(self.first, texts), :]
            return torch.cat([(torch.cat([names, subclasses], -2) + parents) / 2, extra], -2)
        return torch.cat([names, extra], -2)


def plan(vocabulary: Vocabulary, extra: list[str], options: TextOptions) -> tuple[Recipe, list[str]]:
    """Say how the queries of a vocabulary are made.

    Args:
        vocabulary: The classes.
        extra: Words of no class; nothing is mixed into them.
        options: The options.

    Returns:
        The recipe, and notes on classes that have no entry in a file.
    """
    found = {key: file.of(vocabulary) for key, file in options.files.items()}
    entries = {key: texts for key, (texts, _) in found.items()}
    notes = [note for _, told in found.values() for note in told]
    descriptions, auxiliary, subclasses = (entries.get(k, {}) for k in ("descriptions", "auxiliary", "subclasses"))
    # All names of a class that its description replaces would have one row: it is a single query.
    alone = set() if options.descriptions_with_templates else set(descriptions)
    classes = [i for i, entry in enumerate(vocabulary) for _ in entry.names[: 1 if i in alone else None]]
    names = [text for i, entry in enumerate(vocabulary) for text in entry.queries[: 1 if i in alone else None]]
    kinds: list[tuple[int, str]] = []
    for i, texts in subclasses.items():
        own = {fold(name) for name in vocabulary[i].names}
        kinds += [(i, text) for key, text in {fold(text): text for text in texts}.items() if key not in own]
    owners = [i for i, _ in kinds]
    description, definition = ({i: row for row, i in enumerate(texts)} for texts in (descriptions, auxiliary))
    recipe = Recipe(
        names=names,
        subclasses=[text for _, text in kinds],
        extra=extra,
        auxiliary=[text for (text,) in auxiliary.values()],
        sentences=list(descriptions.values()),
        query_to_class=[*classes, *owners, *[-1] * len(extra)],
        first=[classes.index(i) for i in [*classes, *owners]],
        description=[description.get(i, -1) for i in classes],
        definition=[definition.get(i, -1) for i in classes],
        options=options,
    )
    return recipe, notes


def _index(values: list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=like.device)
