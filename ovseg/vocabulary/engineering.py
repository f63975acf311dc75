"""Arithmetic on text embeddings: what definitions, descriptions and sub-classes do to the rows of the queries."""

from __future__ import annotations

from torch import Tensor


def mix(texts: Tensor, auxiliary: Tensor, query_to_class: Tensor, weight: float) -> Tensor:
    """Mix the embedding of every query with that of its class's auxiliary text, a definition or a synonym.

    ``t' = (1 - weight) t + weight a``, as in ITACLIP (arXiv 2411.12044, github.com/m-arda-aydn/ITACLIP). The result is
    not scaled to unit length again: rows become shorter the less a query and its auxiliary text agree.

    Args:
        texts: Unit rows (T, ..., D) of the queries.
        auxiliary: Unit rows (K, ..., D) of the auxiliary texts.
        query_to_class: Row of ``auxiliary`` that each query takes, (T,) int64; queries with -1 stay as they are. So
            ITACLIP's benchmarks with a background, whose class 0 has no auxiliary text, pass their classes minus one.
        weight: Share of the auxiliary text, 0..1.

    Returns:
        Mixed rows (T, ..., D).
    """
    mixed = query_to_class >= 0
    result = texts.clone()
    result[mixed] = (1 - weight) * texts[mixed] + weight * auxiliary[query_to_class[mixed]]
    return result
