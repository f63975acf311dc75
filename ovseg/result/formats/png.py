"""The label map as a PNG for other tools: 16 bits, 8 bits, or with the colours of the classes as a palette."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ovseg.errors import ConfigError
from ovseg.result.formats.base import Format
from ovseg.result.formats.labels import PNG_NO_CLASS, label_values, save_ids
from ovseg.result.parts import Result
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.colors import Color

VOID = 255
"""How files of 8 bits write that there is no class, as VOC, Cityscapes and Detectron2 do."""

_VOID_COLOR: Color = (150, 150, 150)  # no class has a grey colour


class Png(Format):
    """The label map in the depth that is wanted."""

    name = "png"
    ending = ".ids.png"
    summary = "label map of 16 bits, of 8 (uint8) or with the colours of the classes (palette); value as in labels"

    def __init__(self, *, uint8: bool = False, palette: bool = False, own_ids: bool = False) -> None:
        """Choose the depth.

        Args:
            uint8: 8 bits; up to 255 classes, 255 = no class. Without it 16 bits and 65535.
            palette: 8 bits with the colours of the classes, as VOC has it. Tools that know palettes (Pillow, labelling
                tools) read ids; others, OpenCV among them, read colours.

            own_ids: See `ovseg.result.formats.labels.Labels`.

        Raises:
            ConfigError: Both depths, or a palette of own ids.
        """
        if uint8 and palette:
            raise ConfigError("got uint8 and palette for png; expected one, a palette has 8 bits in any case")
        if palette and own_ids:
            raise ConfigError("got palette and own ids for png; a palette counts colours from 0: leave one of them out")
        self.own_ids = own_ids
        self.palette, self.void = palette, VOID if uint8 or palette else PNG_NO_CLASS

    def check(self, classes: Vocabulary, folder: Path, gone: Collection[Path] = ()) -> None:
        """Refuse classes that the file cannot hold."""
        label_values(classes, self.own_ids, self.void)

    def write(self, result: Result, path: Path) -> None:
        """Write a PNG of one channel.

        Raises:
            InputError: There are more classes, or larger ids, than it can count.
        """
        colors = [entry.color for entry in result.classes]
        rest = [_VOID_COLOR] * (VOID + 1 - len(colors))
        save_ids(result, path, self.void, self.own_ids, [*colors, *rest] if self.palette else ())
