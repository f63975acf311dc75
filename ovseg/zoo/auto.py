"""The model that answers where none is named: the best that is installed, else one is fetched, else `mini`."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from ovseg.checkpoint.hub import offline, reachable
from ovseg.checkpoint.hub.manners import VARIABLE, could_agree
from ovseg.errors import ConfigError, DownloadRefused
from ovseg.zoo.aliases import AUTO, FALLBACK, recommended
from ovseg.zoo.card import Card, list_models, on_disk
from ovseg.zoo.released import find_released

_PLACES = ("OVSEG_CACHE", "HF_HOME", "HF_HUB_CACHE", "HF_ENDPOINT", "XDG_CACHE_HOME", "HOME", VARIABLE)
_CHOSEN: dict[tuple[str | None, ...], Choice] = {}  # kept for the process
_NONE = "no model for photographs is installed"
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """What was taken.

    Attributes:
        name: Of the model.
        why: In words.
        mend: How to come to a model for photographs, in words that continue "for photographs"; empty where it is one.
    """

    name: str
    why: str
    mend: str = ""


def choose() -> Choice:
    """Choose a model for photographs, and fetch it if somebody agrees.

    The answer is kept for the process, as long as the environment names the same places. A network that is dead costs
    two seconds once; where the network is not to be used, or nobody could agree, none is asked for.

    Raises:
        DownloadError: Somebody agreed to the download, and it failed; the message says how to go on.
    """
    key = (offline(), *map(os.environ.get, _PLACES))
    with _ONE_AT_A_TIME:
        if key not in _CHOSEN:
            _CHOSEN[key] = best_installed() or _fetched()
        return _CHOSEN[key]


def best_installed() -> Choice | None:
    """Return the model for photographs of the highest reported mIoU whose weights are on this disk, sound and whole."""
    ranked = sorted((card for card in list_models() if card.weights == "released"), key=lambda one: -one.ade150)
    here = next((card for card in ranked if on_disk(card)), None)
    return None if here is None else Choice(here.name, f"the best installed model for photographs{_reported(here)}")


def require_named(model: object, what: str) -> None:
    """Refuse `AUTO` where another model on another day would be another result.

    Args:
        model: What was given.
        what: Wants a name, such as ``an evaluation``.

    Raises:
        ConfigError: It is `AUTO`.
    """
    if str(model) == AUTO:
        raise ConfigError(
            f"model is '{AUTO}', which depends on what is installed; {what} needs a name: {best_name()}, or another of "
            "`ovseg models`"
        )


def best_name() -> str:
    """Return what `AUTO` would be now, without fetching anything."""
    return (best_installed() or Choice(recommended(), "")).name


def _fetched() -> Choice:
    card = next(one for one in list_models() if one.name == recommended())
    bring = f"run `ovseg download {card.name}` ({card.tensors_mb:.0f} MB, {card.weights_licence})"
    if why := offline():
        return Choice(FALLBACK, f"{_NONE} and {why}", f"{bring} where there is a network")
    if not could_agree():
        alone = f"{_NONE} and nobody was there to agree to a download"
        return Choice(FALLBACK, alone, f"{bring} or set {VARIABLE}=yes")
    if not reachable():
        return Choice(FALLBACK, f"{_NONE} and the hub does not answer", f"{bring} where there is a network")
    try:
        find_released(card)
    except DownloadRefused:
        return Choice(FALLBACK, f"{_NONE} and the download was declined", bring)
    return Choice(card.name, f"fetched as the recommended model for photographs{_reported(card)}")


def _reported(card: Card) -> str:
    return f", mIoU {card.ade150} on ADE-150" if card.ade150 else ""
