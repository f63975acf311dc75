"""What the classifier compares image features with."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Queries:
    """What the classifier compares image features with.

    Attributes:
        embeddings: Float32 rows on the CPU, ``(T, D)``: the names of all classes, class by class, then their
            sub-classes, then the words of no class. Of unit length, unless text engineering makes them of another.
        query_to_class: Class id of each query, ``(T,)`` int64; -1 for background and contrast words.
        notes: One-line remarks for the result: what was added or left out, and why.
    """

    embeddings: Tensor
    query_to_class: Tensor
    notes: list[str] = dataclasses.field(default_factory=list)

    def rows(self, cls: Tensor) -> Tensor:
        """Return the rows to compare images with whose own embeddings are ``cls`` (B, D).

        Returns:
            Rows (T, D) for all images, or (B, T, D) where every image has its own.
        """
        return self.embeddings
