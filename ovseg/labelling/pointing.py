"""Point at a thing in an encoded image, and get its mask and its names; the network does not run again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ovseg.contract import CLASS_SCORES, Words
from ovseg.errors import ConfigError
from ovseg.labelling.prompts import Found, Prompt, of_labels

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

_SIDE = 256
"""Pixels of the longer side of the maps by which regions of labels are named."""

Points = Sequence[tuple[int, int]]
Boxes = Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, eq=False)
class Pointed:
    """What somebody points at.

    Attributes:
        mask: (H, W) bool at the size of the photograph; empty where nothing is there.
        names: Names of the classes with their scores, the best first. Scores are shares of the sum of all classes.
        seconds: That it took, without the encoding.
    """

    mask: np.ndarray
    names: tuple[tuple[str, float], ...]
    seconds: float

    @property
    def name(self) -> str:
        """The best name."""
        return self.names[0][0]


@runtime_checkable
class Pointing(Protocol):
    """A model that finds what a prompt means by more than its labels.

    Attributes:
        clip: Whose text tower embeds its words.
    """

    clip: Any

    def point_at(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, prompt: Prompt
    ) -> Found:
        """Find it in what the model keeps of an image."""
        ...


class Pointable:
    """An encoded image that can be pointed at."""

    image: Any
    encoded: Any
    index: int
    segmenter: Segmenter | None

    def asked(self) -> Segmenter:
        """Return who encoded it.

        Raises:
            ConfigError: It comes from a pickle, and so has no model.
        """
        if self.segmenter is None:
            raise ConfigError(f"{self.image.name} came out of a pickle without a model; use segmenter.answer(encoded)")
        return self.segmenter

    def segment_at(
        self,
        points: Points = (),
        boxes: Boxes = (),
        classes: Any = None,
        away: Points = (),
        background: Any = None,
        templates: str | None = None,
    ) -> Pointed:
        """Find the thing at some points or in a box, and rank its names; the image is not encoded again.

        Models of prompts (Open-Vocabulary SAM) are prompted; of the masks of the others the one is taken that the
        prompt means (`ovseg.labelling.prompts.of_proposals`), and of models without masks the connected region of
        their labels.

        Args:
            points: Row and column of pixels of the thing, from 0.
            boxes: Left, top, right and bottom of one box around it, in pixels; together with points both count.
            classes: As in `Segmenter.__call__`.
            away: Row and column of pixels that are not the thing.
            background: As in `Segmenter.__call__`.
            templates: Likewise.

        Raises:
            InputError: Nothing is pointed at, or something out of the image.
            OvsegError: As `Segmenter.__call__`.
        """
        height, width = self.image.pixels.shape[:2]
        prompt = Prompt.read(points, away, boxes, (height, width))
        segmenter, start = self.asked(), time.perf_counter()
        words = segmenter.words(classes, background, templates)
        mask, scores = find(segmenter.model, self.encoded, self.index, (height, width), words, prompt)
        return Pointed(mask, ranked(scores, words), time.perf_counter() - start)


def find(
    model: Any, encoded: Any, index: int, size: tuple[int, int], words: Words, prompt: Prompt
) -> tuple[np.ndarray, Tensor]:
    """Find what a prompt means in image number ``index``; returns its mask (H, W) and the scores (C,) of columns.

    Raises:
        ConfigError: Another model has encoded the image or embedded the words.
    """
    if isinstance(model, Pointing):
        encoded.check(model)
        words.check(model.clip.weights_hash)
        with torch.inference_mode():
            seen = encoded.images[index]
            found = model.point_at(seen, encoded.sizes[index], size, words, prompt)
        return found.mask.cpu().numpy(), found.scores.float().cpu()
    mask = of_labels(model.answer(encoded, index, size, words).labels.cpu().numpy(), prompt)
    return mask, _mean_scores(model, encoded, index, mask, words)


def _mean_scores(model: Any, encoded: Any, index: int, mask: np.ndarray, words: Words) -> Tensor:
    """Return the mean score (C,) of each column in a mask (H, W), on a small map; columns without a class have 0."""
    factor = min(1.0, _SIDE / max(mask.shape))
    small = [max(1, round(side * factor)) for side in mask.shape]
    answer = model.answer(encoded, index, (small[0], small[1]), words, frozenset({CLASS_SCORES}))
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(small, mask.shape, strict=True))
    inside = torch.from_numpy(mask[np.ix_(rows, columns)]).to(answer.class_scores.device)
    means = (answer.class_scores * inside).flatten(1).sum(1) / inside.sum().clamp(min=1)
    found = torch.zeros(len(words.column_class))
    named = words.column_class.cpu() >= 0
    found[named] = means.float().cpu()[words.column_class.cpu()[named]]
    return found


def ranked(scores: Tensor, words: Words) -> tuple[tuple[str, float], ...]:
    """Return the names of the classes by falling score (C,) of their columns, as shares of all that have a class."""
    classes = words.column_class.cpu()
    named = classes >= 0
    own = scores[named].clamp(min=0)
    own = own / own.sum().clamp(min=1e-12)
    values, order = own.sort(descending=True, stable=True)
    names = (words.vocabulary[int(index)].name for index in classes[named][order])
    return tuple(zip(names, values.tolist(), strict=True))
