"""What a request is and what answers it: the three calls that every entrance makes of a model.

``words`` embeds a vocabulary once, ``encode`` runs everything that knows no words, ``answer`` labels an encoded image.
A request is an argument of these calls and never a state of the model, so users with different words may share one
loaded model, and a second question about the same image costs no second pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, InputError, unknown_name
from ovseg.result.objects import Instance, Panoptic
from ovseg.system.values import short_hash
from ovseg.vocabulary.background import Background
from ovseg.vocabulary.queries import Queries
from ovseg.vocabulary.vocabulary import Vocabulary

LABELS: frozenset[str] = frozenset({"labels"})
"""Of a request: labels and their scores, which every answer has."""
PANOPTIC = "panoptic"
INSTANCES = "instances"
CLASS_SCORES = "class_scores"
WANTS = (*LABELS, PANOPTIC, INSTANCES, CLASS_SCORES)
"""All that can be wanted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Words(Queries):
    """The words of a request: embedded once, never changed, shared by any number of images and threads.

    Attributes:
        vocabulary: The classes that labels count in.
        background: What happens to pixels that show none of them.
        templates: Name of the template set.
        embedded_by: Hash of the weights whose text tower embedded them; a model of others refuses them. Empty where no
            tower did.
        found: What a method has found out from the words alone, see `Recalibration.of_words`; None where it has not.
            A copy with other rows (`dataclasses.replace`) is without it.
    """

    vocabulary: Vocabulary
    background: Background
    templates: str
    embedded_by: str = ""
    found: object = field(init=False, default=None)

    def knowing(self, found: object) -> Self:
        """Return the same with what a method has found out from them."""
        other = replace(self)
        object.__setattr__(other, "found", found)
        return other

    def check(self, weights_hash: str) -> None:
        """Refuse to be asked of a CLIP with other weights than those that embedded them.

        Raises:
            ConfigError: They are others.
        """
        if self.embedded_by not in ("", weights_hash):
            raise ConfigError(
                f"the words were embedded by weights {self.embedded_by} and the model has {weights_hash}; "
                "embed them anew by words() of this model"
            )


@dataclass(frozen=True, eq=False)
class Encoded:
    """Images as a model has seen them, without words; it can be pickled, and its memory goes with it.

    Attributes:
        images: For each image what its model keeps of it.
        sizes: Height and width in pixels that the network saw of each.
        model: The `identity` of the model, which alone can answer.
    """

    images: tuple[Any, ...]
    sizes: tuple[tuple[int, int], ...]
    model: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def check(self, model: SegmentationModel) -> None:
        """Refuse to be answered by another model than the one that encoded it.

        Raises:
            ConfigError: It is another, or has other weights or settings by now.
        """
        if self.model != (own := identity(model)):
            raise ConfigError(
                f"the image was encoded by model {self.model} and this is {own}, with other weights or settings; "
                "encode it anew"
            )


@dataclass(frozen=True, eq=False)
class Answer:
    """What an image shows, at the size that was asked for.

    Attributes:
        labels: (H, W) int32 class ids on the model's device; -1 no class. From `ovseg.result.parts.COMPACT` pixels on
            int16, as long as the classes fit.
        scores: (H, W) float32 in 0..1; from there on float16.
        panoptic: At most one segment for every pixel; None unless wanted.
        instances: Objects by falling score, which may overlap; None unless wanted.
        class_scores: (K, H, W) float32, 0 or more, of all classes; None unless wanted. Sums over masks may exceed 1,
            where `scores` are cut, and no calibration is applied to them. Words of the background compete and have no
            map, and thresholds of probability are not applied.
        notes: What is to be said of this answer alone, a line each.
    """

    labels: Tensor
    scores: Tensor
    panoptic: Panoptic | None = None
    instances: tuple[Instance, ...] | None = None
    class_scores: Tensor | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Evidence:
    """What speaks for each class at one pixel, before thresholds, refinement and regions.

    Attributes:
        scores: (C,) float32 of the columns of the words (`Words.column_class`), as class scores are there.
        rows: (C,) int64; the row of the words, one of its names, that spoke for each column.
    """

    scores: Tensor
    rows: Tensor


class SegmentationModel(Protocol):
    """What every model can do, whatever it is made of; all of it may be called by several threads at once.

    Attributes:
        size_rule: How large the network sees a photograph.
        notes: What every result says of the model, whatever the image and the words; they are among those of `words`.

    A model is first placed; what else speeds it up, it does or says in one sentence why not.
    """

    size_rule: SizeRule
    notes: tuple[str, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides weights and words, as JSON values."""
        ...

    @property
    def weights_hash(self) -> str:
        """Changes with every change of the weights."""
        ...

    @property
    def gives(self) -> frozenset[str]:
        """What can be wanted of it."""
        ...

    def words(
        self,
        vocabulary: Vocabulary,
        background: str | Background | Iterable[str] | None = None,
        templates: str | None = None,
    ) -> Words:
        """Embed the words of a request; None is the model's own policy or template set."""
        ...

    def encode(self, images: Sequence[Tensor]) -> Encoded:
        """Run what knows no words on images (3, h, w) RGB in 0..255.

        Images of one size share their passes, others do not meet inside a network: the result of an image is the same
        in any company.
        """
        ...

    def answer(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, want: frozenset[str] = LABELS
    ) -> Answer:
        """Label image number `index` at a size (height, width) by words."""
        ...

    def explain(
        self, encoded: Encoded, index: int, size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Say why a pixel (row, column) of an answer of this size has its label; no other pixel is computed."""
        ...

    def place(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Move to a device for inference, with products in a dtype; returns the model itself."""
        ...

    def pack(self) -> None:
        """Lay weights out for the CPU.

        Raises:
            OvsegError: They cannot be packed.
        """
        ...

    def compile_network(self, backend: str = "inductor") -> None:
        """Compile what knows no words, by a backend of `torch.compile`.

        Raises:
            ConfigError: It cannot be compiled.
        """
        ...


def identity(model: SegmentationModel) -> str:
    """Return 16 hex digits that say which model this is, by its weights and settings."""
    return short_hash(json.dumps([model.weights_hash, model.settings], sort_keys=True))


def check_want(want: Iterable[str] | None, gives: frozenset[str], model: str) -> frozenset[str]:
    """Return what is to be computed; None is all that a model gives but the scores of every class.

    Args:
        want: Names of `WANTS`; labels are always among the result.
        gives: What the model can give.
        model: What to call it in messages.

    Raises:
        UnknownNameError: There is no such thing.
        ConfigError: The model does not give it.
    """
    if want is None:
        return (gives | LABELS) - {CLASS_SCORES}
    wanted = frozenset((want,) if isinstance(want, str) else want) | LABELS
    for name in sorted(wanted):
        if name not in WANTS:
            raise unknown_name("want", name, WANTS)
        if name not in gives | LABELS:
            has = ", ".join(sorted(gives | LABELS))
            raise ConfigError(f"{model} gives no {name}; it gives {has}; leave it out, or choose another model")
    return wanted


def check_point(point: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse a pixel (row, column) that an image of a size (height, width) does not have.

    Raises:
        InputError: It has none there.
    """
    if not (0 <= point[0] < size[0] and 0 <= point[1] < size[1]):
        raise InputError(
            f"the pixel is in row {point[0]}, column {point[1]}; expected rows below {size[0]}, columns below "
            f"{size[1]}, both from 0"
        )
