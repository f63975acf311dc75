"""Why a pixel has its label, in words: what speaks for each class there, and which of its names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ovseg.contract import Evidence, Words, check_point
from ovseg.errors import ConfigError
from ovseg.result.formats.labels import NO_CLASS
from ovseg.result.notebook import figure, table
from ovseg.segmenter import Classes, EncodedImage, Policy
from ovseg.vocabulary.colors import Color

TOP = 5
"""Classes that are named as reasons for a label."""


@dataclass(frozen=True)
class Reason:
    """What speaks for one class at a pixel.

    Attributes:
        name: Of the class.
        word: Which of its names spoke for it.
        score: Raw, before thresholds; see `ovseg.contract.Evidence`.
        color: Of the class.
    """

    name: str
    word: str
    score: float
    color: Color


@dataclass(frozen=True)
class Why:
    """Why a pixel has its label.

    Attributes:
        row: From 0, from above.
        column: From 0, from the left.
        label: Name of its class; empty for none.
        score: Of the label map, 0..1.
        top: The best classes, the best first.
        margin: What the first of them is ahead of the second; None where there is one class.
        background: The best word of no class and its score; None where none competes.
        remark: Why the map does not say what scores highest; empty where it does.
    """

    row: int
    column: int
    label: str
    score: float
    top: tuple[Reason, ...]
    margin: float | None
    background: tuple[str, float] | None
    remark: str

    @classmethod
    def of(cls, found: Evidence, words: Words, point: tuple[int, int], label: int, score: float) -> Why:
        """Put what speaks for each class at a pixel into words.

        Args:
            found: Of the pixel.
            words: That were asked for.
            point: Row and column.
            label: What the answer says there; -1 is no class.
            score: Likewise.
        """
        scores, rows = found.scores.numpy(), found.rows.numpy()
        named = (words.column_class >= 0).cpu().numpy()
        classes, rest = np.flatnonzero(named), np.flatnonzero(~named)
        order = classes[np.argsort(-scores[classes], kind="stable")][:TOP]
        top = tuple(_reason(int(i), int(rows[i]), float(scores[i]), words) for i in order)
        nothing = int(rest[scores[rest].argmax()]) if len(rest) else None
        remark = ""
        if label == NO_CLASS and nothing is not None and scores[nothing] >= top[0].score:
            remark = "a word of no class scores highest here"
        elif label == NO_CLASS:
            remark = f"the best score is below the threshold of the background ({words.background.policy})"
        elif label != int(order[0]):
            remark = "the pixels around decided: the model refines its labels by areas or regions"
        name = words.vocabulary[label].name if label >= 0 else ""
        margin = top[0].score - top[1].score if len(top) > 1 else None
        background = None if nothing is None else (words.texts[int(rows[nothing])], float(scores[nothing]))
        return cls(*point, name, score, top, margin, background, remark)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; of the background its ``word`` and ``score``."""
        nothing = None if self.background is None else dict(zip(("word", "score"), self.background, strict=True))
        return {**asdict(self), "top": [{**asdict(one), "color": list(one.color)} for one in self.top]} | {
            "background": nothing
        }

    def _repr_html_(self) -> str:
        """Show the best classes with their scores as a table."""
        rows: list[tuple[Color | None, tuple[str, ...]]] = [
            (one.color, (one.name, one.word, f"{one.score:.3f}")) for one in self.top
        ]
        if self.background is not None:
            rows.append((None, ("(no class)", self.background[0], f"{self.background[1]:.3f}")))
        lines = [f"row {self.row}, column {self.column}: {self.label or 'no class'}, score {self.score:.2f}"]
        listed = table(("class", "the word that spoke for it", "score"), rows)
        return figure([listed], [*lines, *([self.remark] if self.remark else [])])


def _reason(column: int, row: int, score: float, words: Words) -> Reason:
    entry = words.vocabulary[column]
    return Reason(entry.name, words.texts[row] if words.texts else entry.name, score, entry.color)


def why(
    photo: EncodedImage,
    row: int,
    column: int,
    classes: Classes = None,
    background: Policy = None,
    templates: str | None = None,
) -> Why:
    """Say why a pixel of an encoded photograph has its label; the network does not run again.

    Args:
        photo: Of `ovseg.segmenter.Segmenter.encode`.
        row: Of the photograph, from 0.
        column: Likewise.
        classes: As in `Segmenter.__call__`.
        background: Likewise.
        templates: Likewise.

    Raises:
        InputError: The photograph has no such pixel.
        OvsegError: As `EncodedImage.answer`.
    """
    height, width = photo.image.pixels.shape[:2]
    check_point((row, column), (height, width))
    segmenter = photo.segmenter
    if segmenter is None:
        raise ConfigError(f"{photo.image.name} came out of a pickle without a model; encode it anew")
    words = segmenter.words(classes, background, templates)
    result = photo.answer(words, want=())
    found = segmenter.model.explain(photo.encoded, photo.index, (height, width), words, (row, column))
    return Why.of(found, words, (row, column), int(result.labels[row, column]), float(result.scores[row, column]))
