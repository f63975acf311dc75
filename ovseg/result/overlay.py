"""Drawing a result: colours over the photograph, contours between regions, and a legend that says what is what."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ovseg.errors import EnvironmentProblem, InputError
from ovseg.result.parts import Result
from ovseg.result.png import LARGE, write_png

LEGEND_ROWS = 20
"""Classes that the legend names; the others are counted."""

_SMALL = 256  # photographs with a shorter longest side are enlarged when they get a legend
_TEXT, _FAINT, _PAPER = (30, 30, 34), (120, 120, 128), (255, 255, 255)
_NO_CLASS = (150, 150, 150)  # where there is no class the picture is grey; no class has a grey colour
_FONT_FILES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "arial.ttf", "Arial Unicode.ttf")
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # brightness of R, G, B (ITU-R BT.601)
_STRIP = 2**20  # pixels that are drawn at a time, within 64 to 256 rows
_LINE = 0.6  # how white the borders are
_MISSING = "\U0010ffff"  # a code point that no font draws: what it looks like is a font's sign for "cannot draw this"


@dataclass(frozen=True)
class LegendRow:
    """One line of the legend.

    Attributes:
        text: Name of the class.
        share: Share of the picture, 0..1.
        color: Colour of the swatch; None for none.
    """

    text: str
    share: float
    color: tuple[int, int, int] | None


def draw_overlay(result: Result, alpha: float = 0.5, legend: bool = True) -> Image.Image:
    """Draw the labels of a result over its photograph, which turns grey, so that every hue in the picture is a class.

    Args:
        result: What to draw, ``(H, W)``.
        alpha: Strength of the colours: 0 is the untouched photograph, from 0.5 on it is grey below them, 1 the labels.
        legend: Add the legend: beside the photograph, or below it where it is more than 1.6 times as wide as high.
            Photographs whose longest side is under 256 pixels are then enlarged by a whole factor, without smoothing.

    Returns:
        An RGB image; without legend of exactly the photograph's size.

    Raises:
        InputError: ``alpha`` is not in 0..1.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is {alpha}; expected a number from 0 (photograph) to 1 (labels)")
    colors = np.array([entry.color for entry in result.classes], dtype=np.uint8).reshape(-1, 3)
    arrays = [result.labels, result.image, *([result.panoptic.ids] if result.panoptic is not None else [])]
    height, width = result.labels.shape
    factor = -(-_SMALL // max(height, width)) if legend and max(height, width) < _SMALL else 1
    if factor > 1:
        arrays = [array.repeat(factor, axis=0).repeat(factor, axis=1) for array in arrays]
    labels, image, *ids = arrays
    picture = Image.fromarray(blend(image, labels, colors, alpha, *ids))
    return _add_legend(picture, legend_rows(result)) if legend else picture


def blend(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float, ids: np.ndarray | None = None
) -> np.ndarray:
    """Mix the class colours into a photograph and trace the borders of the regions in white.

    The photograph loses its own colours with growing ``alpha`` (all at 0.5): an orange suit under a violet tint would
    otherwise be a red that is in no legend. Pixels of no class are the grey photograph.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        labels: ``(H, W)`` int32; -1 = no class.
        colors: ``(K, 3)`` uint8.
        alpha: Strength of the colours, 0..1.
        ids: ``(H, W)`` int32 segments, 0 = none; the borders between those that touch are traced too.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    out = np.empty_like(image)
    top = 0
    for strip in blended(image, labels, colors, alpha, ids):
        out[top : top + len(strip)] = strip
        top += len(strip)
    return out


def blended(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, alpha: float, ids: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield what `blend` returns in strips (h, W, 3), from the top: floats of all would be four times its size."""
    thick = max(1, round(min(labels.shape) / 500))  # thicker borders in bigger pictures
    step = min(256, max(64, _STRIP // image.shape[1]))
    for top in range(0, len(image), step):
        rows, above = slice(top, top + step), min(top, thick)
        near = slice(top - above, top + step)
        border = _borders(labels[near], thick, None if ids is None else ids[near])[above:]
        base = image[rows].astype(np.float32)
        base += ((base @ _LUMA)[..., None] - base) * np.float32(min(1.0, 2 * alpha))
        strength = (alpha * (labels[rows] >= 0)).astype(np.float32)
        base += (colors[labels[rows]] - base) * strength[..., None]  # for -1 any colour, its strength is 0
        base[border] += (255 - base[border]) * np.float32(_LINE * min(1.0, 2 * alpha))
        yield np.rint(base).astype(np.uint8)


def _borders(labels: np.ndarray, thick: int, ids: np.ndarray | None = None) -> np.ndarray:
    """Mark pixels that have another label or segment up to ``thick`` pixels to the left or above; ``(H, W)`` bool.

    Where one of the two is in no segment only the labels count, for what no segment covers has a label all the same.
    """
    border = np.zeros(labels.shape, dtype=bool)
    for step in range(1, thick + 1):
        for here, there in (np.s_[:, step:], np.s_[:, :-step]), (np.s_[step:], np.s_[:-step]):
            border[here] |= labels[here] != labels[there]
            if ids is not None:
                border[here] |= (ids[here] != ids[there]) & (ids[here] > 0) & (ids[there] > 0)
    return border


def legend_rows(result: Result) -> list[LegendRow]:
    """List the classes present, biggest first, then how many more there are, then the share of no class."""
    order = sorted(result.segments, key=lambda segment: (-segment.area, segment.class_id))
    rows = [LegendRow(s.name, s.area_fraction, result.classes[s.class_id].color) for s in order[:LEGEND_ROWS]]
    if len(order) > LEGEND_ROWS:
        rest = sum(segment.area_fraction for segment in order[LEGEND_ROWS:])
        rows.append(LegendRow(f"+{len(order) - LEGEND_ROWS} more", rest, None))
    nothing = result.labels.size - sum(segment.area for segment in order)
    if nothing:
        rows.append(LegendRow("no class", nothing / result.labels.size, _NO_CLASS))
    return rows


def save_overlay(result: Result, path: Path) -> None:
    """Write what `draw_overlay` draws as a PNG; large pictures strip by strip, without holding them a second time."""
    height, width = result.labels.shape
    if height * width <= LARGE:
        draw_overlay(result).save(path, format="PNG")
        return
    panel, beside = _legend(width, height, legend_rows(result))
    if beside:
        size = width + panel.width, max(height, panel.height)
    else:
        size = max(width, panel.width), height + panel.height
    write_png(path, *size, _with_panel(result, np.asarray(panel), beside, size))


def _with_panel(result: Result, panel: np.ndarray, beside: bool, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the rows of a picture of a size (width, height) with a panel beside or below it, the rest white."""
    colors = np.array([entry.color for entry in result.classes], dtype=np.uint8).reshape(-1, 3)
    ids = None if result.panoptic is None else result.panoptic.ids
    height, width = result.labels.shape
    top = 0

    def on_paper(strip: np.ndarray, left: int) -> np.ndarray:
        page = np.full((len(strip), size[0], 3), _PAPER, dtype=np.uint8)
        page[:, left : left + strip.shape[1]] = strip
        return page

    for strip in blended(result.image, result.labels, colors, 0.5, ids):
        page = on_paper(strip, 0)
        if beside:
            part = panel[top : top + len(strip)]
            page[: len(part), width:] = part
        top += len(strip)
        yield page
    rest = panel[height:] if beside else panel
    if len(rest):
        yield on_paper(rest, width if beside else 0)


def _add_legend(picture: Image.Image, rows: list[LegendRow]) -> Image.Image:
    """Put the legend beside the picture, or below it in columns."""
    width, height = picture.size
    panel, beside = _legend(width, height, rows)
    if beside:
        canvas = Image.new("RGB", (width + panel.width, max(height, panel.height)), _PAPER)
    else:
        canvas = Image.new("RGB", (max(width, panel.width), height + panel.height), _PAPER)
    canvas.paste(picture, (0, 0))
    canvas.paste(panel, (width, 0) if beside else (0, height))
    return canvas


def _legend(width: int, height: int, rows: list[LegendRow]) -> tuple[Image.Image, bool]:
    """Draw the legend for a picture of a size; returns it, and whether it goes beside the picture or below it."""
    size = int(np.clip(min(width, height) / 30, 14, 96))
    entries = _draw_rows(rows, size)
    step, column = round(size * 1.6), entries[0].width + 2 * size
    beside = width <= 1.6 * height
    columns = 1 if beside else max(1, (width - size) // column)
    per_column = -(-len(entries) // columns)
    columns = -(-len(entries) // per_column)
    panel = Image.new("RGB", (column * columns, step * per_column + size), _PAPER)
    for i, entry in enumerate(entries):
        panel.paste(entry, (size + column * (i // per_column), size // 2 + step * (i % per_column)))
    return panel, beside


def _draw_rows(rows: list[LegendRow], size: int) -> list[Image.Image]:
    """Draw each row (swatch, name, share) in an image of its own, all of one width and ``1.6 * size`` high."""
    texts = [fit_text(row.text, size, max_width=16 * size) for row in rows]
    shares = [_percent(row.share) for row in rows]
    plain = _font(None, size)
    name_width = round(max(font.getlength(text) for text, font in texts))
    share_width = round(max(plain.getlength(share) for share in shares))
    height, swatch = round(1.6 * size), size
    name_left = swatch + size // 2
    share_right = name_left + name_width + size + share_width
    drawn = []
    for row, (text, font), share in zip(rows, texts, shares, strict=True):
        image = Image.new("RGB", (share_right + 1, height), _PAPER)
        draw = ImageDraw.Draw(image)
        top, middle = (height - swatch) // 2, height // 2
        if row.color:
            draw.rectangle((0, top, swatch - 1, top + swatch - 1), fill=row.color)
        # "lm" and "rm": aligned on the vertical middle of the font, so that rows in different fonts stand level.
        draw.text((name_left, middle), text, fill=_TEXT if row.color else _FAINT, font=font, anchor="lm")
        draw.text((share_right, middle), share, fill=_FAINT, font=plain, anchor="rm")
        drawn.append(image)
    return drawn


def _percent(share: float) -> str:
    """Write a share of 0..1 as short as its size deserves."""
    if 0 < share < 0.001:
        return "<0.1%"
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def fit_text(text: str, size: int, max_width: float) -> tuple[str, ImageFont.FreeTypeFont]:
    """Choose a font for a text and make the text drawable and short enough.

    The first font that has all of its letters is taken, else the one that has the most. Signs that it lacks are
    replaced: accented letters by bare ones, pictures such as emoji by their Unicode names in brackets, the rest by a
    question mark.

    Args:
        text: Any text, of any script and length.
        size: Font size in pixels.
        max_width: Pixels; a longer text ends in an ellipsis.

    Returns:
        The text to draw and the font.
    """
    text = " ".join(text[:200].split())
    candidates = [None, *_font_files()]
    source = min(candidates, key=lambda file: sum(not _has_glyph(file, char) for char in text))
    text = "".join(char if _has_glyph(source, char) else _spelled(char) for char in text).strip() or "?"
    font = _font(source, size)
    if font.getlength(text) > max_width:
        keep = len(text)
        while keep > 1 and font.getlength(text[:keep] + "...") > max_width:
            keep -= 1
        text = text[:keep].rstrip() + "..."
    return text, font


def _spelled(char: str) -> str:
    """Say in plain letters what a sign is that cannot be drawn; joiners and variation marks vanish."""
    category = unicodedata.category(char)
    if category[0] in "CM" or category == "Sk":
        return ""
    bare = unicodedata.normalize("NFKD", char)[0]
    if bare.isascii() and bare.isalnum():
        return bare
    name = unicodedata.name(char, "").lower().removeprefix("regional indicator symbol letter ")  # flags: (f)(r)
    return f"({name})" if category[0] == "S" and name else "?"


@lru_cache(maxsize=1)
def _font_files() -> tuple[str, ...]:
    """List font files with more scripts than Pillow's own: matplotlib's, if installed, and the system's."""
    found = []
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib and matplotlib.origin:
        inside = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        found += [str(inside)] if inside.is_file() else []
    for name in _FONT_FILES:
        try:
            found.append(str(ImageFont.truetype(name, 10).path))
        except OSError:  # not on this system
            continue
    return tuple(found)


@lru_cache(maxsize=64)
def _font(file: str | None, size: int) -> ImageFont.FreeTypeFont:
    """Load a font; None is the one that comes with Pillow."""
    font = ImageFont.load_default(size) if file is None else ImageFont.truetype(file, size)
    if not isinstance(font, ImageFont.FreeTypeFont):  # the old bitmap font
        raise EnvironmentProblem("this Pillow has no FreeType and cannot draw names; run `pip install -U pillow`")
    return font


@lru_cache(maxsize=4096)
def _has_glyph(file: str | None, char: str) -> bool:
    """Tell whether a font can draw a character."""
    # Without shaping, which would put a dotted circle under a lone vowel sign and make it look drawable.
    font = _font(file, 20).font_variant(layout_engine=ImageFont.Layout.BASIC)
    return bytes(font.getmask(char)) != bytes(font.getmask(_MISSING))
