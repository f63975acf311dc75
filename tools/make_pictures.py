"""Draw pictures of the documentation anew: the path of one image, and one photograph with and without a background.

They are docs/images/path.svg and docs/images/background.png: ``python tools/make_pictures.py``.
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import ovseg
from ovseg.system.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "examples/street.jpg"
WAYS = (
    ("VOC20: each pixel gets one of 20 classes", "none"),
    ("VOC21: what shows none of them is background", "words"),
)
WIDTH = 1540
"""Of the sheet, in pixels."""
BOX, LINE = 'rx="8" fill="#e0f2f1" stroke="#00796b" stroke-width="1.5"', 'stroke="#37474f" stroke-width="1.8"'
BOXES = {  # left, middle, width, lines of text; the first is bold
    "photo": (10, 60, 155, ("photo", "any size, any kind")),
    "words in": (10, 240, 155, ("words", "text, list, file, preset")),
    "size": (215, 60, 165, ("size rule", "the pixels that", "the network sees")),
    "vocabulary": (215, 240, 165, ("Vocabulary", "names, synonyms,", "colours, ids")),
    "encode": (430, 60, 185, ("encode", "the image tower, once;", "knows no words")),
    "embed": (430, 240, 185, ("words", "the text tower, once;", "kept on disk")),
    "answer": (675, 150, 215, ("answer", "labels and scores; on request", "panoptic, instances,", "class scores")),
    "result": (940, 150, 170, ("Segmentation", "at the size of the photo:", "overlay, 14 formats")),
}
ARROWS = (
    ("photo", "size"),
    ("size", "encode"),
    ("words in", "vocabulary"),
    ("vocabulary", "embed"),
    ("encode", "answer"),
    ("embed", "answer"),
    ("answer", "result"),
)


def path_picture() -> str:
    """Return the path of one image as SVG."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1120 300" font-family="sans-serif" font-size="15">',
        "<title>The path of one image: photo and words in, Segmentation out</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L10 5L0 10z" fill="#37474f"/></marker></defs><rect width="1120" height="300" fill="#ffffff"/>',
    ]
    for start, end in ARROWS:
        (x0, y0), (x1, y1) = _edge(start, right=True), _edge(end, right=False)
        parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1 - 2}" y2="{y1}" {LINE} marker-end="url(#tip)"/>')
    for left, middle, width, lines in BOXES.values():
        top = middle - _height(lines) // 2
        parts.append(f'<rect x="{left}" y="{top}" width="{width}" height="{_height(lines)}" {BOX}/>')
        for row, text in enumerate(lines):
            weight = ' font-weight="bold" font-size="17"' if row == 0 else ""
            place = f'x="{left + width / 2:g}" y="{top + 25 + 20 * row}" text-anchor="middle"'
            parts.append(f"<text {place}{weight}>{escape(text)}</text>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _height(lines: tuple[str, ...]) -> int:
    return 20 * len(lines) + 18


def _edge(name: str, right: bool) -> tuple[float, float]:
    left, middle, width, _ = BOXES[name]
    return left + (width if right else 0), middle


def background_picture() -> Image.Image:
    """Return one photograph, and its labels by the classes of VOC without and with a background."""
    segmenter, photo = ovseg.load("mini"), Image.open(PHOTO).convert("RGB")
    encoded = segmenter.encode(photo)
    answers = [encoded.answer("voc20", background=policy) for _, policy in WAYS]
    overlays = [(title, answer.overlay()) for (title, _), answer in zip(WAYS, answers, strict=True)]
    panels = [("The photograph", photo), *overlays]
    font = ImageFont.truetype(str(_font()), 22)
    height = max(image.height for _, image in panels)
    sheet = Image.new("RGB", (sum(image.width + 12 for _, image in panels) - 12, height + 34), "white")
    draw, left = ImageDraw.Draw(sheet), 0
    for title, image in panels:
        draw.text((left + 4, 3), title, "black", font=font)
        sheet.paste(image, (left, 34))
        left += image.width + 12
    sheet = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    for (title, _), answer in zip(WAYS, answers, strict=True):
        found = sorted(answer.segments, key=lambda segment: -segment.area)
        shares = ", ".join(f"{segment.name} {100 * segment.area_fraction:.0f} %" for segment in found)
        print(f"{title}: {shares}; no class {100 * float(np.mean(answer.labels < 0)):.0f} %")
    return sheet


def _font() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


def main(argv: list[str] | None = None) -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images")
    args = parser.parse_args(argv)
    with atomic_write(args.output / "path.svg") as temporary:
        temporary.write_text(path_picture(), encoding="utf-8")
    with atomic_write(args.output / "background.png") as temporary:
        background_picture().save(temporary, "PNG", optimize=True)
    print(f"wrote path.svg and background.png to {args.output}")


if __name__ == "__main__":
    main()
