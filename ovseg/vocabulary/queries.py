"""What the classifier compares image features with."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self


class Classifier(Protocol):
    """What gives the rows of queries where they depend on the image."""

    def __call__(self, cls: Tensor) -> Tensor:
        """Return rows (B, T, D) for images whose own embeddings are ``cls`` (B, D)."""
        ...

    def to(self, device: torch.device) -> Self:
        """Return the same on another device."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Queries:
    """What the classifier compares image features with.

    Attributes:
        embeddings: Float32 rows ``(T, D)``, or ``(T, M, D)`` where the M templates are kept apart: the names of all
            classes, class by class, then their sub-classes, then the words of no class. Of unit length, unless text
            engineering makes them of another.
        query_to_class: Class id of each query, ``(T,)`` int64; -1 for background and contrast words.
        texts: What each query says, T of them; empty for rows that are no texts.
        notes: One-line remarks for the result: what was added or left out, and why.
        classifier: Gives the rows where every image has its own; None where all share `embeddings`.
        columns: The column (T,) int64 of each query in class scores: one for each class, then one a word of none.
        column_class: The class (K + W,) int64 of each column, -1 for words of no class.
    """

    embeddings: Tensor
    query_to_class: Tensor
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    classifier: Classifier | None = None
    columns: Tensor = dataclasses.field(init=False)
    column_class: Tensor = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Number the columns."""
        classes = self.query_to_class
        rest = classes < 0
        count = int(classes.max()) + 1 if len(classes) else 0
        object.__setattr__(self, "columns", classes.where(~rest, count - 1 + rest.cumsum(0)))
        words = torch.full((int(rest.sum()),), -1)
        object.__setattr__(self, "column_class", torch.cat([torch.arange(count), words]))

    def rows(self, cls: Tensor) -> Tensor:
        """Return the rows to compare images with whose own embeddings are ``cls`` (B, D).

        Returns:
            Rows (T, D) for all images, or (B, T, D) where every image has its own.
        """
        return self.embeddings if self.classifier is None else self.classifier(cls)

    def to(self, device: torch.device) -> Self:
        """Return the same with what images are compared with on another device."""
        if self.embeddings.device == device:
            return self
        classifier = None if self.classifier is None else self.classifier.to(device)
        return dataclasses.replace(self, embeddings=self.embeddings.to(device), classifier=classifier)
