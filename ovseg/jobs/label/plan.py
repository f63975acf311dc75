"""What a labelling job is asked for; it travels to other processes and machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from ovseg._version import __version__
from ovseg.contract import LABELS, Words, check_want
from ovseg.data.decoding import MAX_PIXELS
from ovseg.data.images import check_reading
from ovseg.errors import ConfigError, at_least
from ovseg.result.cleaning import Cleaning
from ovseg.result.files import needs_of, wants_of
from ovseg.vocabulary import Vocabulary, parse_background
from ovseg.vocabulary.templates import check_templates

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

AUTO = "auto"
VERSION = 1
"""Goes up with what changes results of a job besides the model: thumbnails, measures, names."""


@dataclass(frozen=True)
class LabelPlan:
    """Everything that decides the results of a job.

    Attributes:
        inputs: Folders, images, lists, patterns, archives and videos (`ovseg.jobs.label.inputs`).
        classes: The words.
        model: As for `ovseg.load`.
        protocol: Settings of a benchmark, as for `ovseg.load`.
        background: Policy; None for the model's own.
        templates: Template set; None for the model's own.
        formats: What is written for each image.
        options: Of the formats.
        cleaning: What is done to results before they are written.
        every: Of videos every n-th frame.
        keep_tree: Results keep the suffix of their image, so that names depend on nothing else.
        bands: Bands that are red, green and blue, from 1, or one for grey; None for the usual ones.
        max_pixels: Larger images are refused.
        device: As for `ovseg.load`.
        dtype: As for `ovseg.load`.
    """

    inputs: tuple[str, ...]
    classes: Vocabulary
    model: str
    protocol: str = ""
    background: str | None = None
    templates: str | None = None
    formats: tuple[str, ...] = ("labels",)
    options: Mapping[str, Any] = field(default_factory=dict)
    cleaning: Cleaning = field(default_factory=Cleaning)
    every: int = 1
    keep_tree: bool = False
    bands: tuple[int, ...] | None = None
    max_pixels: int = MAX_PIXELS
    device: str = "auto"
    dtype: str = "auto"

    def check(self) -> None:
        """Find mistakes before anything is read.

        Raises:
            OvsegError: A name or a number is not allowed.
        """
        if self.model == AUTO:
            raise ConfigError(f"--model {AUTO} may be another one tomorrow, and a job cannot go on then; name a model")
        at_least("--every", self.every, 1)
        check_reading(self.bands, self.max_pixels)
        needs_of(self.formats)
        if self.background is not None:
            parse_background(self.background)
        if self.templates is not None:
            check_templates(self.templates)

    def load(self, device: str) -> Segmenter:
        """Load the model on a device, and make sure that it gives what the formats need.

        Raises:
            OvsegError: As `ovseg.load`, or it does not.
        """
        from ovseg.zoo import load  # it brings Detectron2

        segmenter = load(self.model, device, self.dtype, protocol=self.protocol)
        check_want(needs_of(self.formats), segmenter.model.gives, segmenter.name)
        return segmenter

    def words(self, segmenter: Segmenter) -> Words:
        """Embed the words.

        Raises:
            OvsegError: As `Segmenter.words`.
        """
        return segmenter.words(self.classes, self.background, self.templates)

    def want(self, segmenter: Segmenter) -> frozenset[str]:
        """Return what is computed of each image: what the formats need, and what they use of what the model gives."""
        return wants_of(self.formats, segmenter.model.gives) | LABELS

    def identity(self) -> dict[str, Any]:
        """Return what makes results besides the model and the inputs, as JSON values; classes are compared by name.

        `max_pixels` makes none: it decides which images fail, and those may be tried again with more.
        """
        return {
            "ovseg": __version__,
            "labels": VERSION,
            "formats": list(self.formats),
            "options": {key: self.options[key] for key in sorted(self.options)},
            "cleaning": {**asdict(self.cleaning), "min_area": str(self.cleaning.min_area)},
            "every": self.every,
            "keep_tree": self.keep_tree,
            "bands": None if self.bands is None else list(self.bands),
            "ids": self.classes.ids,
        }

    def to_json(self) -> dict[str, Any]:
        """Return what was asked for, for who reads it in ``run.json``."""
        return {
            "inputs": list(self.inputs),
            "classes": self.classes.to_json(),
            "model": self.model,
            "protocol": self.protocol,
            "background": self.background,
            "templates": self.templates,
            "max_pixels": self.max_pixels,
            "device": self.device,
            "dtype": self.dtype,
        }
