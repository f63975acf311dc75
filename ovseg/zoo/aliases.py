"""Names that stand for others, each with the rule by which it is chosen from what cards report."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from ovseg.zoo.card import COMMERCIAL, Card, list_models

AUTO = "auto"
FALLBACK = "mini"


class Alias(NamedTuple):
    """A name that stands for another.

    Attributes:
        name: What is written.
        model: What it stands for.
        means: By which rule, in a sentence without its full stop.
    """

    name: str
    model: str
    means: str


@cache
def aliases() -> dict[str, Alias]:
    """Return all aliases by name; models are chosen by what their cards say, as `Alias.means` states it."""
    labels = [card for card in list_models() if _fetched_by_name(card) and card.ade150]
    things = [card for card in list_models() if card.weights == "released" and card.ade_pq and _clear(card)]
    fast, best = _most(labels, lambda card: -card.tensors_mb), _most(labels, lambda card: card.ade150)
    most = _most([card for card in list_models() if card.weights == "released"], lambda card: card.ade150)
    beyond = f"; {most.name} reports {most.ade150} and is fetched by hand" if most.ade150 > best.ade150 else ""
    panoptic = _most(things, lambda card: card.ade_pq)
    found = (
        Alias(
            AUTO,
            fast.name,
            "the best model for photographs whose weights are installed; with none this one is fetched, and without "
            f"a network, or somebody to agree, {FALLBACK} answers",
        ),
        Alias("fast", fast.name, f"the smallest of the models for photographs that {_BY_NAME}: {_size(fast)}"),
        Alias(
            "best",
            best.name,
            f"the highest reported mIoU on ADE-150 of the models that {_BY_NAME}: {best.ade150}{beyond}",
        ),
        Alias(
            "panoptic",
            panoptic.name,
            "the highest reported PQ on ADE20K of the models whose weights have a licence that allows commercial use: "
            f"{panoptic.ade_pq}; {'fetched by name' if panoptic.hub else 'fetched by hand'}",
        ),
        Alias(FALLBACK, FALLBACK, "in the package, for drawings: tests, demonstrations, a look without a network"),
    )
    return {alias.name: alias for alias in found}


_BY_NAME = "are fetched by name, without asking anybody"


def _fetched_by_name(card: Card) -> bool:
    return card.weights == "released" and bool(card.hub) and not card.gated


def _clear(card: Card) -> bool:
    return card.weights_licence in COMMERCIAL


def _most(cards: list[Card], worth: Callable[[Card], float]) -> Card:
    """Return the card that is worth most; of several the first by name."""
    return max(sorted(cards, key=lambda card: card.name), key=worth)


def _size(card: Card) -> str:
    return f"{card.tensors_mb:.0f} MB"


def recommended() -> str:
    """Return the model for photographs that `AUTO` fetches, and that is named where weights do not know photographs."""
    return aliases()[AUTO].model


def stands_for(name: str) -> str:
    """Return the model that a name stands for, by itself or as an alias; `AUTO` is none of either."""
    return aliases()[name].model if name in aliases() and name != AUTO else name
