"""Measure how well clicks pick things of Scenes: by the API and, with ``--browser``, in a real Chromium.

A thing is drawn by a seed from each picture, and clicked where it is thickest. It counts as picked if the mask has an
IoU of 0.5 or more with it. In the browser the mask is what "Undo click" takes off the picture, so that is tested, too.

Examples:
    python tools/measure_clicks.py /tmp/scenes/val
    python tools/measure_clicks.py /tmp/scenes/val --clicks 50 --seed 1 --browser
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

ROOT = Path(__file__).resolve().parents[1]
LEAST = 100  # pixels of a thing
WAIT = 60_000  # milliseconds


class Click(NamedTuple):
    """A thing to be picked: its picture, where it is clicked, what it is, and its mask (H, W) bool."""

    image: Path
    row: int
    column: int
    name: str
    mask: np.ndarray


class Outcome(NamedTuple):
    """What a click gave: IoU, whether the first name and one of five is right, and seconds."""

    iou: float
    first: bool
    five: bool
    seconds: float


def draw_clicks(folder: Path, count: int, seed: int) -> list[Click]:
    """Draw clicks on things of a part of Scenes, one in each picture."""
    listed = json.loads((folder / "panoptic.json").read_text(encoding="utf-8"))
    classes = {one["id"]: one for one in listed["categories"]}
    images = {one["id"]: one["file_name"] for one in listed["images"]}
    order, found = random.Random(seed), list[Click]()
    for entry in order.sample(listed["annotations"], len(listed["annotations"])):
        own = [s for s in entry["segments_info"] if classes[s["category_id"]]["isthing"] and s["area"] >= LEAST]
        if not own:
            continue
        thing = order.choice(own)
        parts = np.asarray(Image.open(folder / "panoptic" / entry["file_name"]).convert("RGB")).astype(int)
        mask = parts @ (1, 256, 65536) == thing["id"]
        depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), mask.shape)
        name = classes[thing["category_id"]]["name"]
        found.append(Click(folder / "images" / images[entry["image_id"]], int(row), int(column), name, mask))
        if len(found) == count:
            break
    return found


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the overlap of two masks."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def by_api(clicks: list[Click], model: str, names: list[str]) -> Iterator[Outcome]:
    """Click by `EncodedImage.segment_at`."""
    import ovseg

    segmenter = ovseg.load(model)
    words = segmenter.words(names)
    for click in clicks:
        found = segmenter.encode(click.image).segment_at([(click.row, click.column)], classes=words)
        best = [name for name, _ in found.names[:5]]
        yield Outcome(iou(found.mask, click.mask), best[0] == click.name, click.name in best, found.seconds)


def by_browser(clicks: list[Click], model: str, names: list[str]) -> Iterator[Outcome]:
    """Click in one tab of a Chromium without a window, on a page of its own."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    call = [sys.executable, "-m", "ovseg.cli", "serve", "--port", "0", "--model", model]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server, sync_playwright() as started:
        line = server.stdout.readline() if server.stdout else ""
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.set_default_timeout(WAIT)
            tab.goto(line.split()[0].split("?")[0])
            tab.wait_for_selector(".ov-examples img")
            tab.wait_for_timeout(2000)
            for click in clicks:
                yield in_tab(tab, click, names)
        finally:
            browser.close()
            server.terminate()


def in_tab(tab: Any, click: Click, names: list[str]) -> Outcome:
    """Open a picture, ask for its labels, click the thing, read mask and names off the page, and take it back."""
    tab.set_input_files(".ov-target input", str(click.image))
    tab.wait_for_selector(f'canvas[aria-label="The photograph {click.image.name}"]')
    tab.fill("#ov-words textarea", ", ".join(names))
    tab.click("#ov-go")
    canvas = tab.locator(f'canvas[aria-label^="Answer A for {click.image.name}"]')
    canvas.wait_for()
    box, (height, width) = canvas.bounding_box(), click.mask.shape
    x, y = (click.column + 0.5) * box["width"] / width, (click.row + 0.5) * box["height"] / height
    canvas.scroll_into_view_if_needed()
    start = time.perf_counter()
    canvas.click(position={"x": x, "y": y})
    tab.locator(".ov-picked li").first.wait_for()
    seconds = time.perf_counter() - start
    best = tab.locator(".ov-picked .ov-name").all_inner_texts()
    after = drawn(canvas)
    tab.click(".ov-point-undo")
    tab.locator(".ov-picked").wait_for(state="detached")
    mask = (drawn(canvas) != after).any(-1)
    return Outcome(iou(mask, click.mask), best[0] == click.name, click.name in best, seconds)


def drawn(canvas: Any) -> np.ndarray:
    """Return what a canvas shows (H, W, 3)."""
    script = "(c) => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    height, width, *values = canvas.evaluate(script)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def told(what: str, found: list[Outcome]) -> str:
    """Say in a line what clicks gave."""
    ious, first, five, seconds = (np.array(values) for values in zip(*found, strict=True))
    return (
        f"{what}: IoU >= 0.5 in {100 * (ious >= 0.5).mean():.0f}% of {len(found)} clicks; first name right "
        f"{100 * first.mean():.0f}%, one of five {100 * five.mean():.0f}%; seconds {np.median(seconds):.3f}, "
        f"at most {seconds.max():.3f}"
    )


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a part of Scenes")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--clicks", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--browser", action="store_true", help="click in a real Chromium, too")
    asked = parser.parse_args()
    clicks = draw_clicks(asked.folder, asked.clicks, asked.seed)
    names = sorted({click.name for click in clicks})
    print(f"{len(clicks)} clicks, {len(names)} words", flush=True)
    print(told("API", list(by_api(clicks, asked.model, names))), flush=True)
    if asked.browser:
        print(told("browser", list(by_browser(clicks, asked.model, names))), flush=True)


if __name__ == "__main__":
    main()
