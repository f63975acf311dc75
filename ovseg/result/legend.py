"""The legend of a picture: which colour is which class, and how much of the picture it has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from ovseg.result.lettering import Line, fit_text, plain_font
from ovseg.result.parts import Result
from ovseg.vocabulary.colors import ALPHA, Color, blended

LEGEND_ROWS = 20
"""Classes that a short legend names; the others are counted."""

PAPER = (255, 255, 255)
_TEXT, _FAINT = (30, 30, 34), (120, 120, 128)
_NO_CLASS = (150, 150, 150)  # where there is no class the picture is grey; no class has a grey colour
_WITHOUT_FONT = ("(class N has id N in reports;", "no font here has its name)")


@dataclass(frozen=True)
class LegendRow:
    """One line of the legend.

    Attributes:
        text: Name of the class.
        share: Share of the picture, 0..1; None for a remark.
        color: Colour of the swatch; None for none.
        number: What stands for a name that no font here has: the id of the class, as reports give it.
        prefix: What stands in a column before the name.
    """

    text: str
    share: float | None
    color: Color | None
    number: int | None = None
    prefix: str = ""


def swatch(color: Color, alpha: float = ALPHA) -> Color:
    """Return a colour as it looks in the picture: half transparent over grey."""
    red, green, blue = blended([color], alpha)[0].tolist()
    return red, green, blue


def legend_rows(result: Result, alpha: float = ALPHA, every: bool = False, ids: bool = False) -> list[LegendRow]:
    """List the classes present, biggest first, then how many more there are, then the share of no class.

    Args:
        result: Whose classes are listed.
        alpha: Strength of the colours in the picture, 0..1; swatches have it too.
        every: List all classes that are present instead of the `LEGEND_ROWS` biggest.
        ids: Put the id of each class before its name.
    """
    own = result.classes.ids or range(len(result.classes))
    order = sorted(result.segments, key=lambda segment: (-segment.area, segment.class_id))
    first = order if every else order[:LEGEND_ROWS]
    rows = [
        LegendRow(
            segment.name,
            segment.area_fraction,
            swatch(result.classes[segment.class_id].color, alpha),
            own[segment.class_id],
            str(own[segment.class_id]) if ids else "",
        )
        for segment in first
    ]
    if rest := order[len(first) :]:
        rows.append(LegendRow(f"+{len(rest)} more", sum(segment.area_fraction for segment in rest), None))
    nothing = result.labels.size - sum(segment.area for segment in order)
    if nothing:
        rows.append(LegendRow("no class", nothing / result.labels.size, _NO_CLASS))
    return rows


def percent(share: float, exact: bool = False) -> str:
    """Write a share of 0..1 as short as its size deserves; exactly: small ones with two digits."""
    if 0 < share < 0.001:
        return f"{100 * share:.2g}%" if exact else "<0.1%"
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def draw_panel(width: int, height: int, rows: list[LegendRow], exact: bool = False) -> tuple[Image.Image, bool]:
    """Draw a legend for a picture of a size.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture.
        rows: What it says; many stand in columns.
        exact: Write small shares with two digits.

    Returns:
        The legend, and whether it goes beside the picture or, where that is wide, below it.
    """
    size = int(np.clip(min(width, height) / 30, 14, 96))
    entries = _draw_rows(rows, size, exact)
    step, column = round(size * 1.6), entries[0].width + 2 * size
    beside = width <= 1.6 * height
    if beside:
        per_column = max(LEGEND_ROWS + 3, (height - size) // step)
    else:
        per_column = -(-len(entries) // max(1, (width - size) // column))
    per_column = min(per_column, len(entries))
    columns = -(-len(entries) // per_column)
    panel = Image.new("RGB", (column * columns, step * per_column + size), PAPER)
    for i, entry in enumerate(entries):
        panel.paste(entry, (size + column * (i // per_column), size // 2 + step * (i % per_column)))
    return panel, beside


def whole_size(width: int, height: int, panel: Image.Image, beside: bool) -> tuple[int, int]:
    """Return width and height of a picture with its legend."""
    if beside:
        return width + panel.width, max(height, panel.height)
    return max(width, panel.width), height + panel.height


def add_legend(picture: Image.Image, rows: list[LegendRow], exact: bool = False) -> Image.Image:
    """Put the legend beside a picture or below it; arguments as `draw_panel`."""
    panel, beside = draw_panel(*picture.size, rows, exact)
    canvas = Image.new("RGB", whole_size(*picture.size, panel, beside), PAPER)
    canvas.paste(picture, (0, 0))
    canvas.paste(panel, (picture.width, 0) if beside else (0, picture.height))
    return canvas


def _lines(rows: list[LegendRow], size: int) -> list[tuple[LegendRow, Line]]:
    """Set the names; where no font here has one, its id stands for it, and a last row says so."""
    widest = 16 * size
    named = [(row, fit_text(row.text, size, widest)) for row in rows]
    if any(line is None for _, line in named):
        named += [(LegendRow(text, None, None), fit_text(text, size, widest)) for text in _WITHOUT_FONT]
    by_id = [(row, line or fit_text(f"class {row.number}", size, widest)) for row, line in named]
    return [(row, line) for row, line in by_id if line is not None]  # plain letters always have a font


def _draw_rows(rows: list[LegendRow], size: int, exact: bool) -> list[Image.Image]:
    """Draw each row (swatch, name, share) in an image of its own, all of one width and ``1.6 * size`` high."""
    lines = _lines(rows, size)
    plain = plain_font(size)
    name_width = round(max(line.width for _, line in lines))
    shares = ["" if row.share is None else percent(row.share, exact) for row, _ in lines]
    share_width = round(max(plain.getlength(share) for share in shares))
    height, side = round(1.6 * size), size
    prefix_width = round(max(plain.getlength(row.prefix) for row, _ in lines))
    name_left = side + size // 2 + (prefix_width + size // 2 if prefix_width else 0)
    share_right = name_left + name_width + size + share_width
    drawn = []
    for (row, line), share in zip(lines, shares, strict=True):
        image = Image.new("RGB", (share_right + 1, height), PAPER)
        draw = ImageDraw.Draw(image)
        top, middle = (height - side) // 2, height // 2
        if row.color:
            draw.rectangle((0, top, side - 1, top + side - 1), fill=row.color)
        draw.text((side + size // 2 + prefix_width, middle), row.prefix, fill=_TEXT, font=plain, anchor="rm")
        line.draw(draw, name_left, middle, _TEXT if row.color else _FAINT)
        draw.text((share_right, middle), share, fill=_FAINT, font=plain, anchor="rm")
        drawn.append(image)
    return drawn
