"""What ``--dtype auto`` takes on the CPU: bfloat16 for weights that were measured to keep their labels, else float32.

Measurements (`ovseg doctor --dtype`) lie in ``dtype/`` of the cache folder, a file each, under what they hold for:
weights, settings of the model, kind of processor, and release of PyTorch.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ovseg.errors import EnvironmentProblem
from ovseg.system.cache_dir import cache_dir, cache_path
from ovseg.system.device import cpu_features, is_cpu, processor
from ovseg.system.files import atomic_write
from ovseg.system.values import dump, short_hash

LOW = torch.bfloat16
MIN_KEPT = 0.999
"""Of the labels, as a share of all pixels, so many have to stay."""

UNITS = frozenset({"amx_bf16", "avx512_bf16"})
"""Features of processors that multiply bfloat16."""


@dataclass(frozen=True)
class Measurement:
    """How a model did in bfloat16 beside float32 on some images.

    Attributes:
        model: What it was loaded as.
        weights_hash: Of its weights.
        settings: Hash of its settings.
        processor: Maker and name.
        torch: Release of PyTorch.
        images, pixels, classes: How many of them were compared.
        kept: Share of the pixels with the same label, 0..1.
        seconds: Of the model for an image in float32.
        seconds_low: In bfloat16.
        date: Day, as YYYY-MM-DD.
    """

    model: str
    weights_hash: str
    settings: str
    processor: str
    torch: str
    images: int
    pixels: int
    classes: int
    kept: float
    seconds: float
    seconds_low: float
    date: str

    @property
    def good(self) -> bool:
        """Whether ``auto`` takes bfloat16: labels stay, and time is saved."""
        return self.kept >= MIN_KEPT and self.seconds_low < self.seconds

    @property
    def decision(self) -> str:
        """What ``auto`` takes, and why, in one line."""
        found = (
            f"{percent(self.kept)} of the labels of {self.images} images stayed in bf16, {self.seconds_low:.2f} s "
            f"against {self.seconds:.2f} s an image ({self.date})"
        )
        if self.good:
            return f"dtype auto is bf16 here: {found}; --dtype fp32 leaves it"
        wanted = f"{100 * MIN_KEPT:g} % are needed" if self.kept < MIN_KEPT else "nothing is saved"
        return f"dtype auto is fp32 here: {found}, and {wanted}"

    @property
    def key(self) -> str:
        """Name of its file."""
        return _key(self.weights_hash, self.settings, self.processor, self.torch)


def percent(share: float) -> str:
    """Write a share of labels so that what is less than all, or than enough, never reads like it."""
    return f"{int(share * 1e5) / 1e3:.3f} %"


def has_units() -> bool:
    """Whether the processor of this machine multiplies bfloat16."""
    return bool(UNITS & cpu_features())


def choose(
    device: torch.device, usual: torch.dtype, weights_hash: str, settings: Mapping[str, Any]
) -> tuple[torch.dtype, list[str]]:
    """Return what ``auto`` takes for a model, and where a measurement decides, the line that says so.

    Args:
        device: Where it runs; only the CPU has measurements.
        usual: What it takes without one.
        weights_hash: Of the model.
        settings: Likewise.
    """
    found = find(weights_hash, settings) if is_cpu(device) and has_units() else None
    if found is None:
        return usual, []
    return (LOW if found.good else usual), [found.decision]


def find(weights_hash: str, settings: Mapping[str, Any]) -> Measurement | None:
    """Return the measurement of a model on this machine; one that cannot be read is told, and ignored."""
    try:
        path = _folder() / _key(weights_hash, hash_settings(settings), processor(), torch.__version__)
    except EnvironmentProblem:  # no home, no measurements
        return None
    try:
        found = Measurement(**json.loads(path.read_text("utf-8")))
        if found.key == path.name and isinstance(found.decision, str):
            return found
        raise ValueError("it is of something else")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError) as error:
        warnings.warn(
            f"the measurement {path} cannot be read ({error}), so dtype auto is fp32; measure again with "
            "`ovseg doctor --dtype`",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def store(found: Measurement) -> Path:
    """Keep a measurement in the place of an earlier one of the same; returns its file.

    Raises:
        InputError: It cannot be written.
        EnvironmentProblem: There is no cache folder.
    """
    cache_dir()
    folder = _folder()
    with contextlib.suppress(OSError):  # writing says it better
        folder.mkdir(exist_ok=True)
    path = folder / found.key
    with atomic_write(path) as temporary:
        temporary.write_text(dump(asdict(found), indent=1) + "\n", "utf-8")
    return path


def hash_settings(settings: Mapping[str, Any]) -> str:
    """Return a hash of the settings of a model."""
    return short_hash(dump(dict(settings)))


def _folder() -> Path:
    return cache_path() / "dtype"


def _key(weights_hash: str, settings: str, machine: str, release: str) -> str:
    return f"{short_hash(dump([weights_hash, settings, machine, release]))}.json"
