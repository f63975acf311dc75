"""The page on which results are looked through: it opens from the disk, without a server and without a network.

What it shows lies in files of JavaScript beside it, because a page that is opened from a disk may not read others; the
pictures are loaded when they come into view. All names are put into the page as text.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ovseg.jobs.review.thumbs import FOLDER
from ovseg.jobs.rows import Row
from ovseg.system.files import atomic_write
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary

ASSETS = Path(__file__).parents[2] / "assets" / "review"
PAGE = f"{FOLDER}/index.html"
"""The page, below the folder of the results."""
PARTS = ("index.html", "review.css", "review.js")
CHUNK = 2000
"""Images in a file of data."""


def write_page(folder: Path, classes: Vocabulary, rows: Sequence[Row], model: str) -> list[Path]:
    """Write the page.

    Args:
        folder: Of the results.
        classes: That the results count in.
        rows: Of all images, in order (`ovseg.jobs.label.labeller`).
        model: What made them.

    Returns:
        The paths of all that was written.

    Raises:
        InputError: It cannot be written.
    """
    place = folder / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for name in PARTS:
        written.append(place / name)
        with atomic_write(place / name) as temporary:
            shutil.copyfile(ASSETS / name, temporary)
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    names = [f"data-{number:04d}.js" for number in range(len(chunks))]
    head = {"model": model, "classes": [[entry.name, list(entry.color)] for entry in classes], "parts": names}
    texts = {"data.js": f"review.begin({dump(head)});\n"}
    texts |= {
        name: f"review.add({dump([_shown(row) for row in part])});\n" for name, part in zip(names, chunks, strict=True)
    }
    for name, text in texts.items():
        written.append(place / name)
        with atomic_write(place / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for old in place.glob("data-*.js"):  # of a larger job that was limited since
        if old not in written:
            old.unlink()
    return written


def _shown(row: Row) -> dict[str, Any]:
    """Return what the page shows of an image; keys are short, for there are many."""
    if row["error"]:
        return {"i": row["image"], "e": row["error"]}
    pixels = row["size"][0] * row["size"][1]
    url = quote(os.fsencode(f"{row['name']}.jpg"))
    return {
        "i": row["image"],
        "u": url,
        "s": row["score"],
        "c": [[number, round(area / pixels, 5), round(score, 4)] for number, area, score in row["classes"]],
        **({"n": row["notes"]} if row["notes"] else {}),
    }
