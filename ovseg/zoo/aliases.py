"""Names that stand for others, each with what it means; models are chosen by what their cards report."""

from __future__ import annotations

from typing import NamedTuple

AUTO = "auto"
FALLBACK = "mini"
RECOMMENDED = "san-vit-b-16"
"""For photographs: what `AUTO` fetches, and what is named where weights do not know photographs."""


class Alias(NamedTuple):
    """A name that stands for another.

    Attributes:
        name: What is written.
        model: What it stands for.
        means: A sentence without its full stop.
    """

    name: str
    model: str
    means: str


ALIASES = {
    alias.name: alias
    for alias in (
        Alias(
            AUTO,
            RECOMMENDED,
            "the best model for photographs whose weights are installed; with none this one is fetched, and without "
            f"a network, or somebody to agree, {FALLBACK} answers",
        ),
        Alias("fast", RECOMMENDED, "the smallest of the models for photographs that are fetched by name"),
        Alias(
            "best",
            "san-vit-large-14",
            "the most accurate of the models that are fetched by name (mIoU on ADE-150); catseg-l, "
            "fcclip-convnext-l, maftp-b, maftp-l and sed-l report more, but are fetched by hand",
        ),
        Alias(
            "panoptic",
            "fcclip-convnext-l",
            "things one by one: the best on ADE20K (PQ) with a clear licence; fetched by hand",
        ),
        Alias(FALLBACK, FALLBACK, "in the package, for drawings: tests, demonstrations, a look without a network"),
    )
}


def stands_for(name: str) -> str:
    """Return the model that a name stands for, by itself or as an alias; `AUTO` is none of either."""
    return ALIASES[name].model if name in ALIASES and name != AUTO else name
