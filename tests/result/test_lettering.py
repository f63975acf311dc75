"""Names in any script, on machines with and without fonts and libraries for it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from ovseg.result import lettering
from ovseg.result.legend import LegendRow, add_legend, legend_rows
from ovseg.result.lettering import fit_text
from ovseg.result.right_to_left import visual
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

READABLE = [
    "猫とソファー",
    "交通信号灯",
    "紅綠燈",
    "고양이",
    "قطة على الأريكة",
    "חתול",
    "кошка",
    "γάτα",
    "猫 cat قطة",
    "café",
]
ODD = ["cat 🐱", "👩‍🚀", "🇫🇷", "ไทย", "𓀀", "é́́́", "a" * 900, "x\u200fy", "\U0010fffd", "猫" * 90]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without fonts of its own."""
    monkeypatch.setattr(lettering, "_system", lambda: ())


def ink(text: str) -> float:
    line = fit_text(text, 20, 400)
    assert line is not None
    canvas = Image.new("L", (420, 40))
    left = 0.0
    for part, font in line.runs:
        ImageDraw.Draw(canvas).text((left, 20), part, fill=255, font=font, anchor="lm")
        left += font.getlength(part)
    return float((np.asarray(canvas) > 100).sum())


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("text", READABLE)
def test_the_scripts_of_the_world_are_readable_without_fonts(text: str) -> None:
    line = fit_text(text, 20, 400)
    assert line is not None and sorted(line.text) == sorted(text)  # nothing replaced, nothing left out
    missing = [bytes(font.getmask(lettering._MISSING)) for _, font in line.runs]
    for (part, font), box in zip(line.runs, missing, strict=True):
        assert all(bytes(font.getmask(char)) != box for char in part)
    assert ink(text) > 20 * len(text.replace(" ", "")) / 2


@pytest.mark.usefixtures("bare")
def test_what_no_font_has_is_none_or_spelled() -> None:
    assert fit_text("𓀀", 14, 500) is None and fit_text("ไทย", 14, 500) is None and fit_text("\U0010fffd", 14, 9) is None
    found = {text: line.text for text in ("x🦩", "🇫🇷", "a" * 900) if (line := fit_text(text, 14, 100))}
    assert found["x🦩"].startswith("x(flam") and re.fullmatch(r"a+\.\.\.a+", found["a" * 900])


@pytest.mark.parametrize("text", READABLE + ODD)
def test_lines_are_no_wider_than_they_may(text: str) -> None:
    line = fit_text(text, 14, 224)
    assert line is None or (line.text and line.width <= 224)


@pytest.mark.usefixtures("bare")
def test_ids_stand_for_names_without_a_font_and_the_legend_says_so() -> None:
    labels = np.arange(300)[None].repeat(300, 0) // 150
    words = Vocabulary.parse(["𓀀", "cat"])
    result = Segmentation.from_labels(labels, np.ones((300, 300)), words, np.zeros((300, 300, 3), np.uint8))
    picture, rows = Image.new("RGB", (300, 300)), legend_rows(result)
    told = [LegendRow(text, None, None) for text in ("(class N has id N in reports;", "no font here has its name)")]
    named = [LegendRow("class 0", rows[0].share, rows[0].color), *rows[1:], *told]
    assert add_legend(picture, rows).tobytes() == add_legend(picture, named).tobytes()
    assert add_legend(picture, rows[1:]).tobytes() != add_legend(picture, [*rows[1:], *told]).tobytes()


@pytest.mark.skipif(not features.check("raqm"), reason="compares with libraqm, which is not here")
@pytest.mark.parametrize(
    "text",
    ["قطة على الأريكة", "سيارة (حمراء)", "חתול 3", "المكتبة", "كُرة", "cat קוף dog", "سلام، دنیا", "قطة cat 12", "cat"],
)
def test_without_libraries_letters_are_joined_and_ordered_as_with_them(text: str) -> None:
    file = next(file for file in lettering._packaged() if "DejaVu" in file)

    def draw(shown: str, engine: ImageFont.Layout) -> np.ndarray:
        canvas = Image.new("L", (700, 80))
        ImageDraw.Draw(canvas).text((10, 10), shown, fill=255, font=ImageFont.truetype(file, 40, layout_engine=engine))
        return np.asarray(canvas) > 128

    wanted, found = draw(text, ImageFont.Layout.RAQM), draw(visual(text), ImageFont.Layout.BASIC)
    assert (wanted & found).sum() > 0.65 * (wanted | found).sum()  # their kerning differs by a pixel here and there


def test_a_machine_without_raqm_gets_the_visual_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    line = fit_text("קוף", 14, 300)
    assert line is not None and line.text == "ףוק"


def test_long_names_that_begin_alike_stay_different() -> None:
    for length in (40, 400):
        lines = [fit_text("a long name " * (length // 12) + end, 14, 120) for end in ("of a red car", "of a blue car")]
        shown = {line.text for line in lines if line and line.width <= 120}
        assert len(shown) == 2 and all("..." in text for text in shown)
