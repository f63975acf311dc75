"""The review page: what it is told, and what a browser makes of it without a server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from PIL import Image

from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.label.run import label
from ovseg.jobs.review.page import CHUNK, write_page
from ovseg.jobs.review.thumbs import save_thumb
from ovseg.jobs.rows import Row
from ovseg.result.overlay import draw_overlay
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary
from tests.conftest import make_photo

EVIL = "<img src=x onerror=alert(1)>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def row(number: int, name: str = "", classes: list[list[float]] | None = None) -> Row:
    name = name or f"photo {number:05d}"
    own = [[number % 3, 50, 0.5]] if classes is None else classes
    found = {"image": f"{name}.jpg", "name": name, "error": "", "size": [10, 10], "notes": []}
    return {**found, "score": (number % 97) / 97, "classes": own}


def told(folder: Path) -> tuple[dict, list[dict]]:
    """Read the files of data as the page does."""
    head = re.fullmatch(r"review\.begin\((.*)\);\n", (folder / "review/data.js").read_text(), re.DOTALL)
    assert head is not None
    whole = json.loads(head[1])
    rows = []
    for name in whole["parts"]:
        part = re.fullmatch(r"review\.add\((.*)\);\n", (folder / "review" / name).read_text(), re.DOTALL)
        assert part is not None
        rows += json.loads(part[1])
    return whole, rows


def test_many_images_lie_in_files_of_their_own(tmp_path: Path) -> None:
    rows = [row(number) for number in range(2 * CHUNK + 1)]
    written = write_page(tmp_path, Vocabulary.parse("a, b, c"), rows, "mini")
    head, found = told(tmp_path)
    assert len(head["parts"]) == 3 and [one["i"] for one in found] == [one["image"] for one in rows]
    assert sorted(written) == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    write_page(tmp_path, Vocabulary.parse("a, b, c"), rows[:5], "mini")
    assert [path.name for path in tmp_path.rglob("data-*.js")] == ["data-0000.js"]


def test_pictures_are_found_whatever_images_are_called(tmp_path: Path) -> None:
    names = ["100% #1?", "a b/ü", "bad\udcff", 'quote"', EVIL]
    write_page(tmp_path, Vocabulary.parse("a, b, c"), [row(i, name) for i, name in enumerate(names)], "m")
    for name, one in zip(names, told(tmp_path)[1], strict=True):
        assert unquote_to_bytes(one["u"]) == f"{name}.jpg".encode("utf-8", "surrogateescape")
        assert not set(one["u"]) & set("#? <>\"'")


def test_a_picture_is_the_overlay_made_small(tmp_path: Path) -> None:
    labels = np.full((600, 800), -1, np.int32)
    labels[:300, :400], labels[300:, 400:] = 0, 1
    image = make_photo(800, 600)
    result = Segmentation.from_labels(labels, np.full(labels.shape, 0.5), Vocabulary.parse("cat, sofa"), image)
    save_thumb(result, tmp_path / "deep/a.jpg")
    with Image.open(tmp_path / "deep/a.jpg") as picture:
        assert picture.size == (320, 240)
        found = np.asarray(picture, np.float32)
    whole = np.asarray(draw_overlay(result, legend=False).resize((320, 240), Image.Resampling.BOX), np.float32)
    for rows, columns in (
        (np.s_[20:100], np.s_[20:140]),
        (np.s_[140:220], np.s_[180:300]),
        (np.s_[20:100], np.s_[180:300]),
    ):
        np.testing.assert_allclose(found[rows, columns].mean((0, 1)), whole[rows, columns].mean((0, 1)), atol=4)
    save_thumb(
        Segmentation.from_labels(labels[:1, :1], np.ones((1, 1)), result.classes, image[:1, :1]), tmp_path / "b.jpg"
    )


PROBE = """
addEventListener("load", () => setTimeout(() => {
  const set = (id, value) => {
    document.getElementById(id).value = value;
    document.getElementById(id).dispatchEvent(new Event("change"));
  };
  set("only", "1");
  set("sort", "sure");
  const names = [...document.querySelectorAll("#grid .name")].map(node => node.textContent);
  document.querySelector("#grid .card").click();
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify({ names, shown: document.getElementById("shown").textContent,
    title: document.getElementById("one-title").textContent, open: document.getElementById("one").open,
    classes: [...document.querySelectorAll("#classes .link")].map(node => node.textContent),
    unsure: document.querySelectorAll("#unsure .card").length, images: document.images.length,
    failed: document.querySelectorAll("#failed tr").length, wide: document.documentElement.scrollWidth });
  document.body.append(out);
}, 1500));
"""


def in_browser(folder: Path) -> dict:
    """Open the page from the disk, choose a class and an order, and return what it then shows."""
    page = folder / "review/index.html"
    page.write_text(page.read_text().replace("</html>", '<script src="probe.js"></script></html>'))
    (folder / "review/probe.js").write_text(PROBE)
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,800", "--virtual-time-budget=10000"]
    call = [CHROMIUM, *flags, "--dump-dom", page.as_uri()]
    found = subprocess.run(call, capture_output=True, text=True, timeout=120, check=True).stdout
    text = re.search(r'<pre id="probe">(.*?)</pre>', found, re.DOTALL)
    assert text is not None, found[-2000:]
    return dict(json.loads(unescape(text[1])))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_ten_thousand_images_in_a_browser(tmp_path: Path) -> None:
    rows = [row(number) for number in range(10_000)]
    rows[1] = row(1, EVIL, [[1, 100, 0.9]]) | {"score": 1.0}
    rows[7] = {"image": "bad.jpg", "name": "bad", "error": EVIL}
    write_page(tmp_path, Vocabulary.parse([EVIL, "b", "c"]), rows, "mini")
    found = in_browser(tmp_path)
    own = [one for one in rows if not one["error"] and one["classes"][0][0] == 1]
    assert found["shown"] == f"{len(own)} of 9999 images"
    assert found["names"] == [one["image"] for one in sorted(own, key=lambda one: (-one["score"], one["image"]))][:60]
    assert found["open"] and found["title"] == f"{EVIL}.jpg, score 1.000"
    assert EVIL in found["classes"] and (found["unsure"], found["failed"]) == (12, 1)
    assert found["images"] == 60 + 12 + 1  # no more pictures than are shown, and none out of a name
    assert found["wide"] <= 500  # Chromium's narrowest window; nothing sticks out of it


def test_a_job_writes_it(plan: Callable[..., LabelPlan], photos: Path, tmp_path: Path) -> None:
    done = label(plan(photos), tmp_path / "out")
    head, rows = told(tmp_path / "out")
    assert [name for name, _ in head["classes"]] == ["cat", "red chair", "window"]
    for one, made in zip(rows, done.rows, strict=True):
        assert one["s"] == made["score"] and (tmp_path / "out/review/thumbs" / one["u"]).is_file()
        assert sum(share for _, share, _ in one["c"]) == pytest.approx(1, abs=1e-3)
