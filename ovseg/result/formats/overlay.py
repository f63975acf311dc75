"""The picture with coloured labels and a legend."""

from __future__ import annotations

from pathlib import Path

from ovseg.errors import one_of
from ovseg.result.formats.base import Format, png_info
from ovseg.result.parts import Result


class Overlay(Format):
    """The photograph under the colours of the classes, the legend beside it."""

    name = "overlay"
    ending = ".overlay.png"
    summary = "picture with coloured labels and a legend"

    def __init__(self, *, legend: str = "short", ids: bool = False) -> None:
        """Choose what is written.

        Args:
            legend: ``short`` (the largest classes), ``all`` or ``none``.
            ids: Write the id of each class that is present into the picture.

        Raises:
            ConfigError: There is no such legend.
        """
        self.legend = one_of("legend", legend, ("short", "all", "none"))
        self.ids = ids

    def write(self, result: Result, path: Path) -> None:
        """Write an RGB PNG."""
        from ovseg.result.overlay import save_overlay

        save_overlay(result, path, self.legend, self.ids, png_info(result))
