"""What a score is worth: a curve, fitted on ground truth, from a model's own score to the share that is right.

A calibration belongs to weights and settings, and is data beside the weights (``*.calibration.json``, written by
``tools/fit_calibration.py``). It changes no label: it is applied to scores when labels and thresholds are done with
them. The same score means less where more words compete, so there is a curve for each of several lengths of the list.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import ConfigError, WeightsError
from ovseg.system.files import atomic_write
from ovseg.system.values import dump, flat, short_hash, some
from ovseg.vocabulary import Background

SUFFIX = ".calibration.json"
_NAMES = ("clip", "calibration")  # settings that are no cause of scores: what the CLIP is called, and the curve itself
_PIXELS = 2**22  # that are mapped at a time


@dataclass(frozen=True, eq=False)
class Calibration:
    """Curves from a model's own score to the share of pixels that are right.

    Attributes:
        weights: Hash of the weights that gave the scores.
        settings: Those of the model, see `causes`.
        templates: Template set of the fit.
        data: What it was fitted on, in words.
        words: Lengths of lists of words, ascending; the curves in between are interpolated by the logarithm.
        scores: The model's own scores, ascending, at which the curves are known; not cut at 1.
        right: For each length of ``words`` the share that is right at each of ``scores``; 0..1, never falling.
    """

    weights: str
    settings: Mapping[str, Any]
    templates: str
    data: str
    words: tuple[int, ...]
    scores: tuple[float, ...]
    right: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Refuse what is no monotone curve.

        Raises:
            WeightsError: It is none.
        """
        rows = np.asarray(self.right, np.float64)
        if (
            rows.shape != (len(self.words), len(self.scores))
            or min(rows.shape, default=0) < 1
            or self.words[0] < 1
            or not (rows.min() >= 0 and rows.max() <= 1 and (np.diff(rows, axis=1) >= 0).all())
            or any(not (np.diff(np.asarray(axis, np.float64)) > 0).all() for axis in (self.words, self.scores))
        ):
            raise WeightsError(
                f"a calibration has {len(self.words)} lengths, {len(self.scores)} scores and curves {rows.shape}; "
                "expected ascending lengths from 1, ascending scores, and for each length shares that never fall"
            )

    @cached_property
    def hash(self) -> str:
        """What tells calibrations apart."""
        return short_hash(dump(asdict(self)))

    def curve(self, words: int) -> tuple[float, ...]:
        """Return the share that is right at each of ``scores`` where so many words compete."""
        rows = np.asarray(self.right, np.float64)
        place = np.interp(math.log(max(words, 1)), np.log(self.words), np.arange(len(self.words)))
        low = min(int(place), len(rows) - 1)
        high, share = min(low + 1, len(rows) - 1), place - low
        return tuple(((1 - share) * rows[low] + share * rows[high]).tolist())

    def apply(self, scores: Tensor, words: int) -> Tensor:
        """Turn scores (H, W) into shares that are right, in place and linearly between the known scores; returns them.

        Args:
            scores: The model's own, not cut, of any float dtype.
            words: How many words compete: those of classes, and of the background.
        """
        known = torch.tensor(self.scores, dtype=torch.float32, device=scores.device)
        values = torch.tensor(self.curve(words), dtype=torch.float32, device=scores.device)
        if len(known) == 1:
            return scores.fill_(float(values[0]))
        for band in scores.split(max(1, _PIXELS // max(1, scores.shape[1]))):
            given = band.float().clamp(known[0], known[-1])
            above = torch.bucketize(given, known).clamp_(1, len(known) - 1)
            share = (given - known[above - 1]) / (known[above] - known[above - 1])
            band.copy_(torch.lerp(values[above - 1], values[above], share))
        return scores

    def other_settings(self, settings: Mapping[str, Any]) -> list[str]:
        """Return the dotted names of settings of a model that are others than those of the fit."""
        fitted, now = flat(self.settings), flat(causes(settings))
        return sorted(key for key in {*fitted, *now} if fitted.get(key) != now.get(key))

    def checked(self, weights: str, settings: Mapping[str, Any]) -> Calibration:
        """Return itself, if it is that of these weights and settings.

        Raises:
            ConfigError: It is not.
        """
        others = self.other_settings(settings)
        if self.weights != weights or others:
            raise ConfigError(
                f"the calibration is that of weights {self.weights} and the model has {weights}"
                f"{f', and other {some(others)}' if others else ''}; fit it to this model "
                "by tools/fit_calibration.py of the repository"
            )
        return self

    def write(self, path: Path) -> None:
        """Write it as JSON.

        Raises:
            InputError: The file cannot be written.
        """
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """Read what `write` wrote.

        Raises:
            WeightsError: It is no calibration.
        """
        try:
            return cls.parse(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"{path} is no calibration ({error}); fit it anew by tools/fit_calibration.py of the repository, "
                "or delete it"
            ) from error

    @classmethod
    def parse(cls, values: dict[str, Any], source: str) -> Calibration:
        """Return what `write` wrote, given as JSON values that come from somewhere.

        Raises:
            WeightsError: It is no calibration.
        """
        try:
            found = {**values, "words": tuple(values["words"]), "scores": tuple(values["scores"])}
            return cls(**{**found, "right": tuple(tuple(map(float, row)) for row in found["right"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WeightsError(
                f"{source} is no calibration ({error}); fit it anew by "
                "tools/fit_calibration.py of the repository, or delete it"
            ) from error


def worth(scores: Tensor, calibration: Calibration | None, words: int) -> Tensor:
    """Bring a model's own scores (H, W) to 0..1, in place: to what they are worth, without a calibration cut at 1."""
    return scores.clamp_(0, 1) if calibration is None else calibration.apply(scores, words)


def said_of(calibration: Calibration | None, policy: Background) -> tuple[str, ...]:
    """Say what the threshold of a background policy is compared with, where that is not the score that is reported."""
    if calibration is None or not policy.threshold:
        return ()
    return (f"{policy.policy} is compared with the model's own scores, before calibration",)


def causes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a model that make its scores, as plain JSON values."""
    found: dict[str, Any] = json.loads(dump({key: value for key, value in settings.items() if key not in _NAMES}))
    return found
