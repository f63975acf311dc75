r"""Fit what a model's scores are worth: a curve from its own score to the share of pixels that are right.

    ovseg datasets scenes --output data/scenes --splits train,val
    python tools/fit_calibration.py --model mini --data data/scenes/train --check data/scenes/val \
        --output ovseg/assets/mini/san.calibration.json

Each image is labelled with the classes that it shows and with so many others that lists of each of --words come about:
a score means less where more words compete. For each length the shares are made monotone (pool adjacent violators, the
least squares fit that never falls). A file `*.calibration.json` beside the weights is used wherever these weights
answer with the settings that they had here; labels never change. With --check the expected calibration error is printed
before and after, on data that the fit has not seen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import numpy as np
import torch
from command_line import status_of

from ovseg.contract import LABELS, Words
from ovseg.data.dataset import Dataset
from ovseg.data.registration import read_dataset
from ovseg.errors import ConfigError, InputError, at_least
from ovseg.evaluation.metrics.calibration import CalibrationEvaluator
from ovseg.evaluation.runs.worker import look
from ovseg.labelling.calibration import Calibration, causes
from ovseg.segmenter import EncodedImage, Segmenter
from ovseg.system.files import check_writable
from ovseg.vocabulary import Vocabulary
from ovseg.zoo import load_spec, resolve

LENGTHS = (5, 15, 50, 150, 0)
QUANTILES = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, *(i / 20 for i in range(2, 20)), 0.97, 0.99)
"""Where groups of scores end; fine where scores are low, which are few and tell most."""
SLOPE = 0.01
"""Share of a straight line in each curve, so that of two scores the higher one stays the higher."""
_SHIFT = 11  # bits of a float32 that are dropped: scores are counted by their first 13 binary digits
_CODES = (np.float32(256).view(np.int32) >> _SHIFT) + 1


class Counts:
    """Pixels by score, and how many of them are right; whole numbers, so that the order of images changes nothing."""

    def __init__(self) -> None:
        self.pixels, self.right = np.zeros(_CODES, np.int64), np.zeros(_CODES, np.int64)

    def add(self, scores: np.ndarray, right: np.ndarray) -> None:
        """Count pixels: scores (N,) float32 from 0 to 256, and (N,) bool."""
        codes = scores.astype(np.float32).clip(0, 256).view(np.int32) >> _SHIFT
        self.pixels += np.bincount(codes, minlength=_CODES)
        self.right += np.bincount(codes[right], minlength=_CODES)


def fit(counts: Sequence[Counts]) -> tuple[list[float], list[list[float]]]:
    """Fit a curve to each of several counts.

    Args:
        counts: Of each length of a list, together with at least one pixel.

    Returns:
        Scores, ascending, and for each of the counts the share that is right there, which rises.

    Raises:
        ConfigError: There is no pixel.
    """
    pixels = np.stack([one.pixels for one in counts])
    total = pixels.sum(0)
    if not total.any():
        raise ConfigError("no labelled pixel was counted; expected images with ground truth for the words")
    ends = np.searchsorted(np.cumsum(total) / total.sum(), [*QUANTILES, 1.0])
    group = np.searchsorted(np.unique(ends), np.arange(_CODES))  # of each code; codes beyond the last have no pixels
    values = (np.arange(_CODES, dtype=np.int32) << _SHIFT).view(np.float32).astype(np.float64)
    size = int(group.max()) + 1
    weight = np.bincount(group, total, size)
    used = weight > 0
    scores = np.bincount(group, total * values, size)[used] / weight[used]
    shares = []
    for one in counts:
        own, right = (np.bincount(group, part, size)[used] for part in (one.pixels, one.right))
        known = own > 0
        curve = monotone((right[known] + 1) / (own[known] + 2), own[known])  # no share is 0 or 1 by the count alone
        rising = (1 - SLOPE) * np.interp(scores, scores[known], curve) + SLOPE * np.linspace(0, 1, len(scores))
        shares.append([0.0, *rising.round(5).tolist()])
    return [0.0, *scores.round(6).tolist()], shares  # no score is no evidence


def monotone(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the curve (N,) that never falls and is nearest to values (N,) in weighted squares."""
    blocks: list[list[float]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (a, m, i), (b, n, j) = blocks[-2], blocks.pop()
            blocks[-1] = [(a * m + b * n) / (m + n), m + n, i + j]
    return np.concatenate([np.full(int(count), value) for value, _, count in blocks]) if blocks else np.zeros(0)


class Labelled:
    """Images of a data set, labelled by a model with lists of words of given lengths."""

    def __init__(self, segmenter: Segmenter, dataset: Dataset, lengths: Sequence[int], images: int, seed: int) -> None:
        self.segmenter, self.dataset, self.lengths, self.seed = segmenter, dataset, lengths, seed
        order = np.random.default_rng(seed).permutation(len(dataset.records))
        self.order = order[: images or None]

    def __iter__(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray, int]]:
        """Yield for each image and length: its place in ``lengths``, truth, labels and own scores (H, W), words."""
        for done, index in enumerate(self.order):
            seen = look(self.dataset, self.dataset.records[index], ("calibration",))
            truth, encoded = seen.truth.semantic(), self.segmenter.encode(seen.image)
            rng = np.random.default_rng([self.seed, int(index)])
            others = rng.permutation(np.setdiff1d(np.arange(len(self.dataset.classes)), seen.present))
            for place, length in enumerate(self.lengths):
                ids = np.concatenate([seen.present, others[: max(0, length - len(seen.present))]])
                ids = np.sort(ids) if length == len(self.dataset.classes) else ids
                words = self.segmenter.words(Vocabulary(tuple(self.dataset.classes[i] for i in ids)))
                labels, scores = self._label(encoded, truth.shape, words)
                yield place, truth, np.append(ids, -1)[labels], scores, len(words.column_class)
            if sys.stderr.isatty() or done % 100 == 99:
                print(f"\r{done + 1} of {len(self.order)} images", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)

    def _label(self, encoded: EncodedImage, size: Any, words: Words) -> tuple[np.ndarray, np.ndarray]:
        model: Any = self.segmenter.model
        with torch.inference_mode():
            seen, network = encoded.encoded.images[0], encoded.encoded.sizes[0]
            found = model.label(seen, network, (int(size[0]), int(size[1])), words, LABELS)
        return found.labels.cpu().numpy(), found.scores.float().cpu().numpy()


def fitted(segmenter: Segmenter, labelled: Labelled, said: str) -> Calibration:
    """Fit a calibration to a model."""
    counts = [Counts() for _ in labelled.lengths]
    for place, truth, labels, scores, _ in labelled:
        counted = (truth >= 0) & (labels >= 0)
        counts[place].add(scores[counted], (labels == truth)[counted])
    model: Any = segmenter.model
    at, shares = fit(counts)
    return Calibration(
        model.weights_hash,
        causes(model.settings),
        model.default_templates,
        said,
        tuple(labelled.lengths),
        tuple(at),
        tuple(map(tuple, shares)),
    )


def errors(labelled: Labelled, calibration: Calibration) -> list[tuple[float, float]]:
    """Return for each length the expected calibration error of scores as the model gives them, and calibrated."""
    count = len(labelled.dataset.classes)
    pairs = [(CalibrationEvaluator(count), CalibrationEvaluator(count)) for _ in labelled.lengths]
    for place, truth, labels, scores, words in labelled:
        worth = calibration.apply(torch.from_numpy(scores.copy()), words).numpy()
        for evaluator, given in zip(pairs[place], (scores.clip(0, 1), worth), strict=True):
            evaluator.count(evaluator.measure(truth, labels, given))
    found = [[one.evaluate().expected_calibration_error for one in pair] for pair in pairs]
    return [(before, after) for before, after in found]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", required=True, help="a name of `ovseg models`, a folder, or a config")
    add("--data", required=True, help="data set to fit on, with masks")
    add("--check", default="", help="data set on which the error is measured before and after; none by default")
    add("--output", type=Path, required=True, help="NAME.calibration.json, beside the weights")
    add("--words", default=",".join(map(str, LENGTHS)), help="lengths of lists, 0 for all classes (%(default)s)")
    add("--images", type=int, default=0, help="so many images, drawn at random; 0 takes all (%(default)s)")
    add("--seed", type=int, default=0, help="of the draw of images and words (%(default)s)")
    add("--device", default="auto", help="auto | cpu | cuda | mps")
    return parser.parse_args(argv)


def _lengths(text: str, classes: int) -> list[int]:
    try:
        asked = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--words is '{text}'; expected numbers such as 5,50,0") from error
    found = sorted({one or classes for one in asked})
    if found[0] < 1 or found[-1] > classes:
        raise ConfigError(f"--words is '{text}'; expected numbers from 1 to the {classes} classes, or 0 for all")
    return found


def write(args: argparse.Namespace) -> None:
    """Write a calibration, and say what it does on the data that it is checked on.

    Raises:
        OvsegError: An argument cannot be used, or a model or data set is missing.
    """
    if not args.output.name.endswith(".calibration.json"):
        raise InputError(f"--output is '{args.output}'; expected a name that ends in .calibration.json")
    check_writable(args.output.parent)
    at_least("--images", args.images, 0)
    dataset, unseen = read_dataset(args.data), read_dataset(args.check) if args.check else None
    lengths = _lengths(args.words, len(dataset.classes))
    segmenter = load_spec(resolve(args.model), args.device)
    labelled = Labelled(segmenter, dataset, lengths, args.images, args.seed)
    said = f"{'/'.join(Path(args.data).parts[-2:])}, {len(labelled.order)} images, seed {args.seed}"
    calibration = fitted(segmenter, labelled, said)
    calibration.write(args.output)
    print(f"{args.output}: curves of {len(calibration.scores)} scores, fitted on {said}")
    if unseen:
        check = Labelled(segmenter, unseen, lengths, args.images, args.seed)
        for length, (before, after) in zip(lengths, errors(check, calibration), strict=True):
            print(f"{length:>5} words: ECE {100 * before:.1f} % before, {100 * after:.1f} % after")


def main(argv: list[str] | None = None) -> int:
    """Run the tool: 0 when a calibration was written, 2 for a mistake."""
    return status_of(lambda: write(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
