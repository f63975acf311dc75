"""Words that an image brings itself: each is asked for alone, against words for surroundings, as CLIPSeg is tested."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from ovseg.contract import CLASS_SCORES, Words
from ovseg.data.dataset import VOID
from ovseg.data.images import LoadedImage
from ovseg.errors import ConfigError
from ovseg.evaluation.robustness import Condition
from ovseg.evaluation.runs.measures import THRESHOLD, Found
from ovseg.evaluation.runs.sources import shown
from ovseg.jobs.identity import describe
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.background import parse_background

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

SURROUNDINGS = "words"
"""Background policy of prompts where none was asked for."""


def check_words(background: str | None) -> str:
    """Return the background policy of prompts.

    Raises:
        ConfigError: It has no words, so that nothing could compete with a prompt.
        OvsegError: As `parse_background`.
    """
    policy = background or SURROUNDINGS
    if not parse_background(policy).words:
        raise ConfigError(
            f"--background {policy} leaves a prompt without rivals, each pixel would be what it asks for; expected "
            "words, or words of your own such as 'sky, wall'"
        )
    return policy


class PromptSource:
    """Runs a model for each prompt of an image; the score of a pixel is the probability of the prompt there."""

    def __init__(
        self,
        segmenter: Segmenter,
        classes: Vocabulary,
        background: str | None,
        templates: str | None,
        condition: Condition,
    ) -> None:
        """Ask for one prompt, so that mistakes come to light.

        Raises:
            OvsegError: As `check_words` and `Segmenter.words`.
        """
        self.segmenter, self.classes, self.condition = segmenter, classes, condition
        self.policy, self.rest = (check_words(background), templates), VOID
        self.description = describe(segmenter, self._words(0))

    def __call__(self, name: str, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Ask for the prompts of an image, which are the classes of its ground truth; see `Source`.

        The image is encoded once, however many prompts it has.
        """
        best = np.full(image.pixels.shape[:2], THRESHOLD, np.float32)
        labels = np.full(best.shape, -1, np.int32)
        prompts = {}
        start = time.perf_counter()
        encoded = self.segmenter.encode(shown(self.condition, name, image, self.classes, present))
        seconds = time.perf_counter() - start
        for place in present.tolist():
            words = self._words(place)
            start = time.perf_counter()
            every = encoded.answer(words, want={CLASS_SCORES}).class_scores
            seconds += time.perf_counter() - start
            if every is None:
                raise ConfigError(f"{self.segmenter.name} gives no scores of classes; expected a model that does")
            scores = prompts[place] = every[0].clip(0, 1)
            won = scores >= best
            labels[won], best[won] = place, scores[won]
        return Found(labels, seconds=seconds, prompts=prompts)

    def _words(self, place: int) -> Words:
        vocabulary = self.condition.vocabulary(Vocabulary((self.classes[place],)))
        return self.segmenter.words(vocabulary, *self.policy)
