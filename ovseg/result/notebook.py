"""Results as notebooks show them: a picture in a page, small however large the photograph is; names are never HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from PIL import Image

from ovseg.result.legend import percent
from ovseg.result.overlay import draw_small
from ovseg.result.parts import Result
from ovseg.vocabulary.colors import Color

SIDE = 640
"""Pixels of the longest side in which a photograph is shown."""
MOST = 150_000
"""Bytes of a picture in a page; what is larger is drawn smaller, and that is said."""
_NAMES = 12  # in the text of a picture, for who does not see it


def result_html(result: Result, title: str) -> str:
    """Return a result as HTML: the picture with its legend, and below it what there is to know.

    Args:
        result: What to show.
        title: A line on it.
    """
    notes = [str(note) for note in result.meta.get("notes", ())]
    picture, said = overlay_html(result)
    return figure([picture], [title, *([said] if said else []), *notes])


def overlay_html(result: Result, side: int = SIDE) -> tuple[str, str]:
    """Return the picture of a result as HTML, and a line that says how far it was shrunk; empty where it was not."""
    height, width = result.labels.shape
    biggest = sorted(result.segments, key=lambda segment: -segment.area)[:_NAMES]
    text = ", ".join(f"{segment.name} {percent(segment.area_fraction)}" for segment in biggest) or "no class"
    while True:
        picture = draw_small(result, side)
        data = png(picture)
        if len(data) <= MOST or side < 64:
            break
        side = side * 3 // 4
    factor = side / max(height, width)
    shown = f"{max(1, round(width * factor))} x {max(1, round(height * factor))}"
    said = f"shown at {shown} of {width} x {height} pixels; overlay() draws all" if factor < 1 else ""
    return image(data, text), said


def png(picture: Image.Image) -> bytes:
    """Return a picture as the bytes of a PNG of at most 256 colours: a quarter of the size, and nobody sees it."""
    file = io.BytesIO()
    few = picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(file, format="PNG", optimize=True)
    return file.getvalue()


def image(data: bytes, text: str) -> str:
    """Return a PNG as HTML that needs no other file.

    Args:
        data: The PNG.
        text: What stands in its place where it is not seen.
    """
    encoded = base64.b64encode(data).decode("ascii")
    return f'<img alt="{html.escape(text)}" style="max-width: 100%" src="data:image/png;base64,{encoded}">'


def figure(parts: Iterable[str], lines: Iterable[str]) -> str:
    """Return HTML with lines of text below it.

    Args:
        parts: HTML.
        lines: Text, not HTML.
    """
    return f'<figure style="margin: 0">{"".join(parts)}<figcaption>{_lines(lines)}</figcaption></figure>'


def table(head: Sequence[str], rows: Iterable[tuple[Color | None, Sequence[str]]]) -> str:
    """Return a table as HTML.

    Args:
        head: Text above the columns.
        rows: The colour of a swatch before a row, if it has one, and text for each column.
    """
    cells = ["<th></th>" + "".join(f"<th>{html.escape(text)}</th>" for text in head)]
    for color, texts in rows:
        swatch = "" if color is None else f'<span style="{_SWATCH}; background: rgb{tuple(color)}"></span>'
        cells.append(f"<td>{swatch}</td>" + "".join(f"<td>{html.escape(text)}</td>" for text in texts))
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


_SWATCH = "display: inline-block; width: 1em; height: 1em"


def _lines(lines: Iterable[str]) -> str:
    return "<br>".join(html.escape(line) for line in lines)
