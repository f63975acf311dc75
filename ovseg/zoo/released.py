"""Checkpoints that the authors of a model have released: found on disk, fetched from a hub, or explained."""

from __future__ import annotations

from pathlib import Path

from ovseg.checkpoint.hub import fetch
from ovseg.errors import WeightsError
from ovseg.system.files import file_hash
from ovseg.zoo.card import Card, place, source_of


def find_released(card: Card, consent: bool = False) -> Path:
    """Return the released file of a card: one that was put into the folder of weights by hand, else that of its hub.

    Args:
        card: Of the model.
        consent: Its download was asked for in so many words.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched; the message says why and what mends it.
        WeightsError: It can be had by hand only (then the message says in two lines what to fetch and where to put it),
            or the checksum is another.
    """
    path = place(card)
    if path.is_file():
        if card.sha256 and not (found := file_hash(path)).startswith(card.sha256):
            raise WeightsError(f"{path} has sha256 {found}, expected {card.sha256}; it is damaged, fetch it anew")
        return path
    if source := source_of(card):
        return fetch(source, card.name, consent)
    raise WeightsError(
        f"the weights of {card.name} cannot be fetched from here; fetch {card.file} from {card.link}\n"
        f"and put it at {path}, or give its path as MODEL.WEIGHTS"
    )
