"""Words that an image brings itself: each is asked for alone, against words for surroundings, as CLIPSeg is tested."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg.data.images import LoadedImage
from ovseg.errors import ConfigError
from ovseg.evaluation.measures import THRESHOLD, Found
from ovseg.evaluation.robustness import Condition
from ovseg.evaluation.sources import describe
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
            OvsegError: As `check_words` and `Segmenter.set_vocabulary`.
        """
        self.segmenter, self.classes, self.condition = segmenter, classes, condition
        self.words = check_words(background), templates
        segmenter.set_vocabulary(self._vocabulary(0), *self.words)
        self.description = describe(segmenter)

    def __call__(self, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Ask for the prompts of an image, which are the classes of its ground truth; see `Source`."""
        picture: Any = image.path
        if self.condition.FAMILY != "clean":
            picture = self.condition.image(image.pixels, image.name, self.classes, present.tolist())
        best = np.full(image.pixels.shape[:2], THRESHOLD, np.float32)
        labels = np.full(best.shape, -1, np.int32)
        prompts, seconds = {}, 0.0
        for place in present.tolist():
            self.segmenter.set_vocabulary(self._vocabulary(place), *self.words)
            start = time.perf_counter()
            scores = prompts[place] = self.segmenter.class_scores(picture)[0].clip(0, 1)
            seconds += time.perf_counter() - start
            won = scores >= best
            labels[won], best[won] = place, scores[won]
        return Found(labels, seconds=seconds, prompts=prompts)

    def _vocabulary(self, place: int) -> Vocabulary:
        return self.condition.vocabulary(Vocabulary((self.classes[place],)))
