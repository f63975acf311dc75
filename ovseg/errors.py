"""What can go wrong by a user's hand; every message is one line: what was got, what was expected, how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class OvsegError(Exception):
    """Base of all errors that a user can mend; the command line prints its message without a traceback."""


class InputError(OvsegError):
    """An image, folder or output path cannot be used."""


class VocabularyError(OvsegError):
    """The words, templates or background policy cannot be used."""


class UnknownNameError(OvsegError):
    """A name (model, preset, method, ...) is not registered."""


class WeightsError(OvsegError):
    """A weights file is missing, corrupt, foreign, or does not fit the model."""


class DownloadError(WeightsError):
    """Weights are not on this machine and could not be fetched."""


class DownloadRefused(DownloadError):
    """Weights are not on this machine, and nobody has agreed to a large download."""


class UploadError(OvsegError):
    """A model could not be shared through a hub."""


class ConfigError(OvsegError):
    """A configuration value, device or dtype is not allowed."""


class TrainingError(OvsegError):
    """A training broke down: a loss is not finite, or a pass does not fit into memory."""


class EnvironmentProblem(OvsegError):
    """The installation lacks something; ``ovseg doctor`` tells more."""


def unknown_name(kind: str, got: str, known: Iterable[str], first: Sequence[str] = ()) -> UnknownNameError:
    """Build the error for a name that is not registered, with the nearest known names.

    Args:
        kind: What was looked up, such as ``"model"``.
        got: The name that was asked for.
        known: All names that exist; where none is near, the first of them are shown.
        first: Those of them that are shown before the others.
    """
    names = [*first, *sorted(set(known) - {*first})]
    spelled = {name.lower(): name for name in names}
    near = [spelled[match] for match in difflib.get_close_matches(got.lower(), spelled, n=3, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:12])}"
    return UnknownNameError(f"unknown {kind} '{got}'; {hint}")


def one_of(option: str, got: str, allowed: Sequence[str]) -> str:
    """Return a value if it is allowed.

    Raises:
        ConfigError: It is not; the message lists what is.
    """
    if got not in allowed:
        raise ConfigError(f"{option} is '{got}'; expected one of {', '.join(allowed)}")
    return got


def at_least(option: str, got: Any, low: float) -> Any:
    """Return a number if it is not below a bound.

    Raises:
        ConfigError: It is below, or not a number (NaN).
    """
    if not got >= low:
        raise ConfigError(f"{option} is {got}; expected at least {low}")
    return got


def within(option: str, got: Any, low: float, high: float) -> Any:
    """Return a number if it is in a range, both ends included.

    Raises:
        ConfigError: It is outside, or not a number (NaN).
    """
    if not low <= got <= high:
        raise ConfigError(f"{option} is {got}; expected {low} to {high}")
    return got
