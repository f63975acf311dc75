"""Images of a run with what was to be found and what was found, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg.data.checking import spread
from ovseg.data.dataset import Dataset
from ovseg.data.images import read_image
from ovseg.errors import InputError
from ovseg.evaluation.reports.page import inline
from ovseg.evaluation.runs.image_log import ImageRecord
from ovseg.evaluation.runs.job import LABELS
from ovseg.evaluation.runs.worker import nearest, read_truth
from ovseg.result.formats.labels import read_label_png
from ovseg.result.legend import swatch
from ovseg.result.overlay import blend
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.colors import ALPHA

RIGHT, WRONG, VOID_COLOR = (225, 229, 234), (213, 94, 0), (255, 255, 255)
MOST = 640  # pixels of the longer side, beyond which pictures are made smaller before they are drawn


def load(folder: Path, dataset: Dataset, record: ImageRecord) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read an image, its ground truth and the labels of a run at one size, small enough to be drawn.

    Returns:
        (H, W, 3) uint8, and (H, W) int32 twice; -1 void and no class.

    Raises:
        InputError: A file is missing or broken.
    """
    entry = dataset.records[record.index] if record.index < len(dataset.records) else None
    if entry is None or dataset.image_name(entry) != record.name:
        raise InputError(f"'{dataset.name}' has another image in place of '{record.name}'; it has changed")
    image = read_image(entry["file_name"])
    truth = read_truth(dataset, entry, image)[0].semantic()
    labels = read_label_png(folder / LABELS / record.labels)
    height, width = image.pixels.shape[:2]
    shrink = min(1.0, MOST / max(height, width))
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    pixels = np.asarray(Image.fromarray(image.pixels).resize(size[::-1], Image.Resampling.BOX))
    return pixels, nearest(truth, size), nearest(labels, size)


def overlay(pixels: np.ndarray, labels: np.ndarray, classes: Vocabulary) -> Image.Image:
    """Draw labels over a photograph, which turns grey."""
    colors = np.array([entry.color for entry in classes], dtype=np.uint8).reshape(-1, 3)
    return Image.fromarray(blend(pixels, labels, colors, ALPHA))


def mistakes(truth: np.ndarray, labels: np.ndarray) -> Image.Image:
    """Draw where labels are right (grey), wrong (orange) and where there is no ground truth (white)."""
    drawn = np.where((truth == labels)[..., None], RIGHT, WRONG)
    drawn[truth < 0] = VOID_COLOR
    return Image.fromarray(drawn.astype(np.uint8))


def key(classes: Vocabulary, labels: np.ndarray, most: int = 8) -> str:
    """Name the classes of a map beside their colours, the largest first."""
    values, counts = np.unique(labels, return_counts=True)
    order = [int(v) for _, v in sorted(zip(-counts, values, strict=True)) if v >= 0]
    marks = [
        f'<span class="key" style="background:rgb{swatch(classes[i].color)}"></span>{escape(classes[i].name)}'
        for i in order[:most]
    ]
    return "".join(marks) + (f" and {len(order) - most} more" if len(order) > most else "")


def gallery(folder: Path, dataset: Dataset, records: Sequence[ImageRecord]) -> str:
    """Return a figure for each image: photograph, ground truth, prediction and mistakes.

    An image whose files are gone is left out; the numbers do not need it.
    """
    figures = []
    for record in records:
        try:
            pixels, truth, labels = load(folder, dataset, record)
        except InputError:
            continue
        miou = record.scores.get("miou")
        shown = "-" if miou is None else f"{100 * miou:.1f}"
        shots = [
            inline(Image.fromarray(pixels), "image"),
            inline(overlay(pixels, truth, dataset.classes), "ground truth"),
            inline(overlay(pixels, labels, dataset.classes), "prediction"),
            inline(mistakes(truth, labels), "mistakes"),
        ]
        found = np.where(np.isin(labels, truth), -1, labels)
        caption = f"<b>{shown}</b> mIoU &nbsp; {escape(record.name)} &nbsp; shows {key(dataset.classes, truth)}"
        caption += f"<br>also predicted {key(dataset.classes, found)}" if (found >= 0).any() else ""
        figures.append(f'<figure><figcaption>{caption}</figcaption><div class="shots">{"".join(shots)}</div></figure>')
    return "\n".join(figures)


def ranked(records: Sequence[ImageRecord], count: int) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Return the images with the best and the worst mIoU of their own classes; none is in both."""
    known = sorted((r for r in records if r.scores.get("miou") is not None), key=lambda r: (-_miou(r), r.index))
    count = min(count, len(known) // 2) if len(known) > 1 else len(known)
    return known[:count], known[::-1][:count] if len(known) > 1 else []


def _miou(record: ImageRecord) -> float:
    return record.scores["miou"] or 0.0


def draw_samples(dataset: Dataset, count: int = 8, columns: int = 4) -> Image.Image:
    """Draw images with their masks and a legend, side by side; those with problems are passed over.

    Raises:
        InputError: None can be drawn.
    """
    drawn = list(_draw(dataset, count))
    if not drawn:
        raise InputError(f"no image of '{dataset.name}' can be drawn; mend the problems first")
    columns = min(columns, len(drawn))
    rows = [drawn[i : i + columns] for i in range(0, len(drawn), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    width = max(sum(tile.width for tile in row) for row in rows)
    canvas = Image.new("RGB", (width, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for tile in row:
            canvas.paste(tile, (left, top))
            left += tile.width
        top += height
    return canvas


def _draw(dataset: Dataset, count: int) -> Iterator[Image.Image]:
    """Yield overlays of images that are spread over the data set."""
    for index in spread(len(dataset.records), count):
        record = dataset.records[index]
        try:
            pixels = read_image(record["file_name"]).pixels
            labels = dataset.read_segments(record, pixels.shape[:2]).semantic()
        except InputError:
            continue
        tile = Segmentation(labels, np.ones(labels.shape, np.float32), dataset.classes, pixels).overlay()
        tile.thumbnail((640, 640))
        yield tile
