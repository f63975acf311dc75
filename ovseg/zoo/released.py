"""Checkpoints that the authors of a model have released: found on disk, fetched from a hub, or explained."""

from __future__ import annotations

from pathlib import Path

from ovseg.checkpoint.hub import fetch
from ovseg.errors import WeightsError
from ovseg.zoo.card import Card, on_disk, place, source_of


def find_released(card: Card, consent: bool = False) -> Path:
    """Return the released file of a card: one that lies here (`on_disk`), else that of its hub.

    Args:
        card: Of the model.
        consent: Its download was asked for in so many words.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched; the message says why and what mends it.
        WeightsError: It can be had by hand only; the message says in two lines what to fetch and where to put it.
    """
    if path := on_disk(card):
        return path
    if source := source_of(card):
        return fetch(source, card.name, consent)
    raise WeightsError(
        f"the weights of {card.name} cannot be fetched from here; fetch {card.file} from {card.link}\n"
        f"and put it at {place(card)}, or give its path as MODEL.WEIGHTS"
    )
