"""The picture with coloured labels and a legend."""

from __future__ import annotations

from pathlib import Path

from ovseg.result.formats.base import Format
from ovseg.result.parts import Result


class Overlay(Format):
    """The photograph under the colours of the classes, the legend beside it."""

    name = "overlay"
    ending = ".overlay.png"
    summary = "picture with coloured labels and a legend"

    def write(self, result: Result, path: Path) -> None:
        """Write an RGB PNG."""
        from ovseg.result.overlay import save_overlay

        save_overlay(result, path)
