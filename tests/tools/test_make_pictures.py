"""Pictures of the documentation: that of the path is drawn by the tool, and its words lie inside their boxes."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

from PIL import ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import make_pictures as tool

ROOT = Path(__file__).resolve().parents[2]


def test_the_path_is_the_one_that_is_drawn():
    text = tool.path_picture()
    assert (ROOT / "docs/images/path.svg").read_text(encoding="utf-8") == text
    ElementTree.fromstring(text)


def test_words_fit_into_their_boxes():
    for left, middle, width, lines in tool.BOXES.values():
        for row, line in enumerate(lines):
            size = 17 if row == 0 else 15
            font = ImageFont.truetype(str(tool._font()), size)  # wider than what browsers take for sans-serif
            assert font.getlength(line) * 0.93 < width, line
        assert left + width <= 1120 and middle + tool._height(lines) / 2 <= 300
