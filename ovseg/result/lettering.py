"""Names in pictures, in any script, on any machine: which fonts there are, and which of them draws what."""

from __future__ import annotations

import importlib.util
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

from ovseg.errors import EnvironmentProblem
from ovseg.result.right_to_left import visual
from ovseg.vocabulary.colors import Color

SHIPPED = Path(__file__).parents[1] / "assets" / "fonts" / "DroidSansFallback.ttf"
"""Japanese, Chinese and Korean; see the README beside it."""

_SYSTEM = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "arial.ttf", "Arial Unicode.ttf")
_LONGEST = 200  # letters that are measured of a text
_MISSING = "\U0010ffff"  # a code point that no font draws: what it looks like is a font's sign for "cannot draw this"


@dataclass(frozen=True)
class Line:
    """A text that can be drawn.

    Attributes:
        runs: Its parts from left to right, each with the font that has their signs.
        width: In pixels.
    """

    runs: tuple[tuple[str, ImageFont.FreeTypeFont], ...]
    width: float

    @property
    def text(self) -> str:
        """What is drawn, from left to right."""
        return "".join(text for text, _ in self.runs)

    def parts(self) -> Iterator[tuple[float, str, ImageFont.FreeTypeFont]]:
        """Yield each part with the pixels from the beginning of the line to its own."""
        left = 0.0
        for text, font in self.runs:
            yield left, text, font
            left += font.getlength(text)

    def draw(self, draw: ImageDraw.ImageDraw, left: float, middle: float, fill: Color) -> None:
        """Draw it from ``left`` on, the middle of its fonts at ``middle``."""
        for at, text, font in self.parts():
            # "lm": aligned on the vertical middle of the font, so that parts in different fonts stand level.
            draw.text((left + at, middle), text, fill=fill, font=font, anchor="lm")


def fit_text(text: str, size: int, max_width: float) -> Line | None:
    """Choose fonts for a text and make it drawable and short enough.

    A font that has all of its signs draws it alone; else each sign is drawn by the first font that has it. Signs that
    none has are spelled: accented letters as bare ones, pictures such as emoji by their Unicode names in brackets.

    Args:
        text: Any text, of any script and length.
        size: Font size in pixels.
        max_width: Pixels; of a longer text the middle is left out.

    Returns:
        The line; None where the text has letters that no font here has, so that it could not be read.
    """
    whole = " ".join(text.split())
    spelled = _drawable(whole if len(whole) <= _LONGEST else _cut(whole, _LONGEST))
    if not spelled:
        return None
    line = _lay(spelled, size)
    keep = len(spelled)
    while line.width > max_width and keep > 1:
        keep = max(1, min(keep - 1, int(keep * max_width / line.width) + 2))
        line = _lay(_cut(spelled, keep), size)
    return line


def _cut(text: str, keep: int) -> str:
    """Leave the middle of a text out; names that begin alike are told apart by their ends."""
    end = keep // 3
    return f"{text[: keep - end].rstrip()}...{text[len(text) - end :].lstrip()}"


def plain_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the font that is there on every machine, for digits and Latin letters."""
    return _font(None, size)


def _drawable(text: str) -> str:
    """Return the text with every sign that no font has spelled in others; empty if one cannot be."""
    signs = []
    for char in text:
        if not any(_has_glyph(file, char) for file in _fonts()):
            spelled = _spelled(char)
            if spelled is None:
                return ""
            signs.append(spelled)
        else:
            signs.append(char)
    return "".join(signs).strip()


def _lay(text: str, size: int) -> Line:
    """Share a text out among the fonts."""
    if not features.check("raqm"):  # else Pillow orders and joins the letters of each part itself
        text = visual(text)
    whole = next((file for file in _fonts() if all(_has_glyph(file, char) for char in text)), "")
    runs: list[tuple[str, str | None]] = [(text, whole)] if whole != "" else []
    for char in text if not runs else ():
        if runs and _has_glyph(runs[-1][1], char):
            runs[-1] = (runs[-1][0] + char, runs[-1][1])
        else:
            runs.append((char, next((file for file in _fonts() if _has_glyph(file, char)), None)))
    fonts = tuple((part, _font(file, size)) for part, file in runs)
    return Line(fonts, sum(font.getlength(part) for part, font in fonts))


def _spelled(char: str) -> str | None:
    """Say in plain letters what a sign is that cannot be drawn; joiners and marks vanish, None for other letters."""
    category = unicodedata.category(char)
    if category[0] in "CM" or category == "Sk":
        return ""
    bare = unicodedata.normalize("NFKD", char)[0]
    if bare.isascii() and bare.isalnum():
        return bare
    name = unicodedata.name(char, "").lower().removeprefix("regional indicator symbol letter ")  # flags: (f)(r)
    return f"({name})" if category[0] == "S" and name else None


def _fonts() -> tuple[str | None, ...]:
    """List the fonts in the order of preference: Pillow's own, matplotlib's, ours, the system's."""
    return (None, *_packaged(), *_system())


@lru_cache(maxsize=1)
def _packaged() -> tuple[str, ...]:
    """List the fonts that come with packages, and so are the same everywhere."""
    matplotlib = importlib.util.find_spec("matplotlib")
    found = [SHIPPED]
    if matplotlib and matplotlib.origin:  # Greek, Cyrillic, Hebrew, Arabic and many more
        found.insert(0, Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")
    return tuple(str(path) for path in found if path.is_file())


@lru_cache(maxsize=1)
def _system() -> tuple[str, ...]:
    """List the fonts of this machine that have many scripts."""
    found = []
    for name in _SYSTEM:
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
