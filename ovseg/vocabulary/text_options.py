"""The options of text engineering: files that say more of classes, and weights of templates that suit the image."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.errors import ConfigError, VocabularyError
from ovseg.system.files import file_hash
from ovseg.vocabulary.class_texts import ClassTexts, read_class_texts

if TYPE_CHECKING:
    from detectron2.config import CfgNode
    from torch import Tensor

_FILES = ("auxiliary", "descriptions", "subclasses")


@dataclass(frozen=True)
class TextOptions:
    """How the texts of classes are engineered; the defaults leave them as they are. All of it can be combined.

    Files are JSON, see `ovseg.vocabulary.class_texts`; empty is none. They are read once, when the options are made.

    Attributes:
        auxiliary: File of one definition or synonym per class, mixed into all of its names as ITACLIP does; see
            `ovseg.vocabulary.engineering.mix`.
        auxiliary_weight: Share of the auxiliary text, 0..1.
        descriptions: File of sentences per class, embedded as they are and averaged: CuPL (Pratt et al., "What does a
            platypus look like?", ICCV 2023, github.com/sarahpratt/CuPL) and Maniparambil et al., "Enhancing CLIP with
            GPT-4" (github.com/mayug/VDT-Adapter). They take the place of the class's names.
        descriptions_with_templates: Whether they are averaged with each of the names in its templates instead.
        subclasses: File of kinds per class, which become further queries of it, as in CHiLS (Novack et al., ICML 2023,
            github.com/acmi-lab/CHILS); see `ovseg.vocabulary.engineering.Recipe`.
        autoclip: Entropy of the weights of templates as a share of the largest, 0..1: AutoCLIP (Metzen et al., 2023);
            0 is off: all templates weigh the same. The paper uses 0.85.
        long_text: Whether texts that are longer than the text tower reads are read in windows, whose rows are averaged,
            as in ClipMD (arXiv 2303.13340); else they are cut, and a note says so. Texts that fit do not change.
        linear: File with a matrix that all rows pass before they meet an image, as LABCLIP has it; see
            `ovseg.vocabulary.text_linear`. Images stay as they are.

    Raises:
        ConfigError: A number is out of range, or two options exclude each other.
        VocabularyError: A file is missing or holds something else.
    """

    auxiliary: str = ""
    auxiliary_weight: float = 0.2
    descriptions: str = ""
    descriptions_with_templates: bool = False
    subclasses: str = ""
    autoclip: float = 0.0
    long_text: bool = False
    linear: str = ""

    def __post_init__(self) -> None:
        """Check the numbers and read the files."""
        for name in ("auxiliary_weight", "autoclip"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; expected a share between 0 and 1")
        if self.autoclip and self.descriptions and not self.descriptions_with_templates:
            raise ConfigError(
                "autoclip weighs templates but descriptions take their place; set descriptions_with_templates, or drop"
                " one of the two"
            )
        if self.autoclip and self.linear:
            raise ConfigError("autoclip makes the texts of each image and linear maps texts; drop one of the two")
        _ = self.files, self.matrix

    @cached_property
    def files(self) -> dict[str, ClassTexts]:
        """The content of the files by option."""
        return {key: read_class_texts(getattr(self, key), key == "auxiliary") for key in _FILES if getattr(self, key)}

    @cached_property
    def matrix(self) -> Tensor | None:
        """The matrix (D, D) of `linear`; None without."""
        from ovseg.vocabulary.text_linear import read_linear  # with PyTorch, which words alone do not need

        return read_linear(Path(self.linear)) if self.linear else None

    def mapped(self, rows: Tensor) -> Tensor:
        """Return rows (..., D) behind `linear`.

        Raises:
            VocabularyError: They are of another length.
        """
        if self.matrix is None:
            return rows
        if rows.shape[-1] != len(self.matrix):
            raise VocabularyError(
                f"'{self.linear}' maps texts of {len(self.matrix)} channels and this CLIP has {rows.shape[-1]}; it was "
                "fitted for another"
            )
        from ovseg.vocabulary.text_linear import apply_linear

        return apply_linear(rows, self.matrix)

    @classmethod
    def from_config(cls, node: CfgNode) -> TextOptions:
        """Read the keys of ``MODEL.TEXT``, which are the names of the options in capitals."""
        return cls(**{field.name: node[field.name.upper()] for field in fields(cls)})

    def check_templates(self, count: int) -> None:
        """Refuse AutoCLIP with one template.

        Raises:
            ConfigError: There is one.
        """
        if self.autoclip and count < 2:
            raise ConfigError("autoclip weighs templates but there is one; choose a larger set such as openai80")

    def to_json(self) -> dict[str, Any]:
        """Return the options that are in use, with hashes of their files, as JSON values; recorded in results."""
        used = {key: value for key in (*_FILES, "autoclip", "long_text") if (value := getattr(self, key))}
        if self.auxiliary:
            used["auxiliary_weight"] = self.auxiliary_weight
        if self.descriptions:
            used["descriptions_with_templates"] = self.descriptions_with_templates
        if self.linear:
            used |= {"linear": self.linear, "linear_hash": file_hash(Path(self.linear))}
        return used | {f"{key}_hash": file.hash for key, file in self.files.items()}
