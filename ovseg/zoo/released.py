"""Checkpoints that the authors of a model have released: found on disk, fetched from a hub, or explained."""

from __future__ import annotations

from pathlib import Path

from ovseg.errors import WeightsError
from ovseg.system.files import file_hash
from ovseg.zoo.card import Card, place


def find_released(card: Card) -> Path:
    """Return the released file of a card: the one in the cache folder, else the hub's.

    Raises:
        WeightsError: It can be had by hand only or the hub cannot be reached (then the message says in two lines what
            to fetch and where to put it), or the checksum is another.
    """
    path = place(card) if card.installed else _from_hub(card)
    if card.sha256 and (found := file_hash(path)) != card.sha256:
        raise WeightsError(f"{path} has sha256 {found}, expected {card.sha256}; it is damaged, fetch it anew")
    return path


def _from_hub(card: Card) -> Path:
    if not card.hub:
        raise WeightsError(_explain(card, "cannot be fetched from here"))
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(card.hub, card.file))
    except Exception as error:  # whatever the network, the hub's client or the disk raise
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0][:160]
        raise WeightsError(_explain(card, f"could not be fetched from {card.hub} ({reason})")) from error


def _explain(card: Card, problem: str) -> str:
    return (
        f"the weights of {card.name} {problem}; fetch {card.file} from {card.link}\n"
        f"and put it at {place(card)}, or give its path as MODEL.WEIGHTS"
    )
