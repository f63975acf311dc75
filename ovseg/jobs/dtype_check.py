"""What ``ovseg doctor --dtype`` measures: which labels a model keeps in bfloat16 on the CPU, and the time it saves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovseg.data.images import expand_inputs
from ovseg.errors import EnvironmentProblem
from ovseg.segmenter import Segmenter
from ovseg.system.device import processor
from ovseg.system.precision import LOW, UNITS, Measurement, has_units, hash_settings

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Compared:
    """What was measured, and for each image its name and the share of its pixels with the same label."""

    whole: Measurement
    images: list[tuple[str, float]]


def measure(
    load: Callable[[str], Segmenter], images: Sequence[Any], classes: Any = None, tell: Tell = lambda _: None
) -> Compared:
    """Label images in float32 and in bfloat16, and compare; nothing is stored.

    Args:
        load: Loads the model on the CPU, given ``fp32`` or ``bf16``; one is gone before the other comes.
        images: Files, folders or images.
        classes: As `ovseg.Segmenter` takes them; None for the model's own words.
        tell: Is told what is under way.

    Raises:
        EnvironmentProblem: This processor does not multiply bfloat16.
        OvsegError: As ``load`` and `Segmenter.stream`.
    """
    if not has_units():
        raise EnvironmentProblem(
            f"this processor ({processor() or 'unknown'}) does not multiply bfloat16: it has none of "
            f"{', '.join(sorted(UNITS))}; --dtype auto stays fp32 here"
        )
    sources = expand_inputs(list(images))
    with tempfile.TemporaryDirectory() as folder:
        plain = load("fp32")
        seconds = [_label(plain, sources, classes, Path(folder), None, tell)]
        about = (plain.name, plain.model.weights_hash, hash_settings(plain.model.settings))
        del plain
        low = load("bf16")
        shares = list[tuple[str, int, int]]()
        seconds.append(_label(low, sources, classes, Path(folder), shares, tell))
        count = len(low.words(classes).vocabulary)
    pixels = sum(size for _, _, size in shares)
    kept = sum(same for _, same, _ in shares) / pixels
    day = time.strftime("%Y-%m-%d")
    whole = Measurement(
        *about, processor(), torch.__version__, len(shares), pixels, count, kept, seconds[0], seconds[1], day
    )
    return Compared(whole, [(name, same / size) for name, same, size in shares])


def _label(
    segmenter: Segmenter,
    sources: Sequence[Any],
    classes: Any,
    folder: Path,
    shares: list[tuple[str, int, int]] | None,
    tell: Tell,
) -> float:
    """Label images and keep the labels in a folder, or with ``shares`` compare them with those that are there.

    Returns:
        Seconds of the model for an image; the first image is labelled once before it counts.
    """
    words, name = segmenter.words(classes), "bf16" if segmenter.dtype == LOW else "fp32"
    next(segmenter.stream(sources[:1], words))
    total = 0.0
    for index, found in enumerate(segmenter.stream(list(sources), words)):
        tell(f"{name}: image {index + 1} of {len(sources)} ...")
        total += found.meta["timings"]["model"]
        place = folder / f"{index}.npy"
        if shares is None:
            np.save(place, found.labels)
        else:
            shares.append((found.meta["image"], int((np.load(place) == found.labels).sum()), found.labels.size))
    return total / len(sources)
