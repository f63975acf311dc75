"""A comparison as a page, as JSON and as a Markdown table."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.data.contents import contents_of, differences
from ovseg.data.dataset import Dataset
from ovseg.errors import OvsegError
from ovseg.evaluation.reports import page
from ovseg.evaluation.reports.charts import bars
from ovseg.evaluation.reports.compare import METRICS, Entry
from ovseg.evaluation.reports.page import inline, percent
from ovseg.evaluation.reports.pictures import VOID_COLOR, key, load, overlay
from ovseg.evaluation.runs.plan import read_plan
from ovseg.system.files import atomic_write, check_writable
from ovseg.system.values import dump

PAGE, NUMBERS, TABLE = "compare.html", "compare.json", "compare.md"
PICTURES, DRAWN_MODELS = 8, 4
BOTH, FIRST, OTHER, NEITHER = (225, 229, 234), (0, 114, 178), (230, 159, 0), (90, 96, 108)


def write_comparison(folder: Path, summary: dict[str, Any], entries: Sequence[Entry]) -> None:
    """Write ``compare.html``, ``compare.json`` and ``compare.md``.

    Args:
        folder: Made if need be.
        summary: Of `ovseg.evaluation.reports.compare.compare`.
        entries: Likewise.

    Raises:
        InputError: The folder cannot be written to.
    """
    check_writable(folder)
    for name, text in (
        (NUMBERS, dump(summary, indent=1) + "\n"),
        (TABLE, markdown(summary)),
        (PAGE, _page(summary, entries)),
    ):
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def markdown(summary: dict[str, Any]) -> str:
    """Return a table of the models, the best first: each number with its interval, and the difference of the first."""
    names = [name for name in METRICS if name in summary["models"][0]["numbers"]]
    heads = [
        "model",
        *(METRICS[name][1] for name in names),
        f"difference to {summary['reference']}",
        "ms / image",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model in _best_first(summary):
        cells = [_with_interval(model["numbers"].get(name)) for name in names]
        gap = model["difference"].get(names[0])
        other = "" if model["name"] == summary["reference"] else _with_interval(gap, "+")
        speed = f"{1000 * model['seconds_per_image']:,.0f}"
        lines.append("| " + " | ".join([model["name"], *cells, other, speed]) + " |")
    return "\n".join(lines) + "\n"


def _best_first(summary: dict[str, Any]) -> list[dict[str, Any]]:
    name = next(iter(summary["models"][0]["numbers"]))
    return sorted(summary["models"], key=lambda model: -((model["numbers"].get(name) or {}).get("value") or 0))


def _with_interval(number: dict[str, Any] | None, sign: str = "") -> str:
    if number is None or number["value"] is None:
        return "-"
    value, low, high = (f"{100 * number[key]:{sign}.1f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _page(summary: dict[str, Any], entries: Sequence[Entry]) -> str:
    title = f"{len(entries)} models on {summary['dataset']['name']}"
    subtitle = (
        f"{summary['images']} images that all have evaluated; {summary['resamples']:,} resampled data sets, seed "
        f"{summary['seed']}; measured against {summary['reference']}"
    )
    found, problem = _pictures(entries, summary)
    parts = [
        f'<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>',
        page.box("Not the same in all runs", [*summary["notes"], *problem]),
        *(_metric(summary, name) for name in METRICS if name in summary["models"][0]["numbers"]),
        page.section(
            "Classes", _classes(summary), "IoU in percent; those that differ most first. A click on a head sorts."
        ),
        page.section("Images that differ most", found, "By the spread of the mean IoU of the classes an image shows."),
    ]
    return page.page(title, "\n".join(filter(None, parts)))


def _metric(summary: dict[str, Any], name: str) -> str:
    """Draw one number of all models with its intervals, and list the differences."""
    models = [model for model in _best_first(summary) if model["numbers"].get(name)]
    values = [model["numbers"][name] for model in models]
    rows = [
        (model["name"], number["value"] or 0.0, percent(number["value"]))
        for model, number in zip(models, values, strict=True)
    ]
    drawn = bars(rows, [(number["low"] or 0.0, number["high"] or 0.0) for number in values], 760)
    table = page.table(
        ["model", METRICS[name][1], "low", "high", "difference", "low ", "high ", "better in", "clear"],
        [
            [model["name"], *_three(model["numbers"][name]), *_three(gap), gap["better"], _verdict(gap)]
            for model in models
            if (gap := model["difference"].get(name)) and model["name"] != summary["reference"]
        ],
    )
    rule = f"{summary['rules'][name]} In percent, with {100 * summary['level']:.0f} % intervals. {summary['rule']}"
    return page.section(METRICS[name][1], drawn + f"<h3>Against {escape(summary['reference'])}</h3>{table}", rule)


def _three(number: dict[str, Any]) -> list[float | None]:
    return [number["value"], number["low"], number["high"]]


def _verdict(gap: dict[str, Any]) -> str:
    """Say in a word what an interval means."""
    if gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return "no"
    return "better" if gap["low"] > 0 else "worse"


def _classes(summary: dict[str, Any]) -> str:
    models = [model["name"] for model in summary["models"]]
    rows = [
        [row["id"], row["name"], row["pixels"], *row["iou"], max(row["iou"]) - min(row["iou"])]
        for row in summary["classes"]
    ]
    return page.table(["id", "class", "pixels", *models, "spread"], rows, "classes") if rows else ""


def _pictures(entries: Sequence[Entry], summary: dict[str, Any]) -> tuple[str, list[str]]:
    """Return figures of the images that differ most, or say why there are none."""
    try:
        dataset = read_plan(entries[0].folder).open_dataset()
    except OvsegError as error:
        return "", [f"images are not drawn: {error}"]
    if other := differences(replace(entries[0].contents, images={}), contents_of(replace(dataset, records=[]))):
        return "", [f"images are not drawn: the data set is another by now ({'; '.join(other)})"]
    shown = entries[:DRAWN_MODELS]
    chosen = differing(shown)[:PICTURES]
    figures = []
    for index in chosen:
        with contextlib.suppress(OvsegError):  # its files are gone; the numbers do not need it
            if _as_measured(entries[0], dataset, index):
                figures.append(_figure(shown, dataset, index))
    more = [f"of {len(entries)} models the first {len(shown)} are drawn"] if len(entries) > len(shown) else []
    if gone := len(chosen) - len(figures):
        more.append(
            f"{gone} of {len(chosen)} images are not drawn: they are others by now, or gone, or their labels are"
        )
    return "\n".join(figures), more


def _as_measured(entry: Entry, dataset: Dataset, index: int) -> bool:
    """Tell whether an image and its ground truth are what the run has measured."""
    name = entry.images[index].name
    record = dataset.records[index : index + 1]
    now = contents_of(replace(dataset, records=record), entry.contents).images.get(name)
    return now is not None and now.same(entry.contents.images[name])


def differing(entries: Sequence[Entry]) -> list[int]:
    """Return the images that all have evaluated, those first where their mean IoUs lie farthest apart."""
    shared = set.intersection(*(set(entry.images) for entry in entries))
    scores = {
        index: [value for e in entries if (value := e.images[index].scores.get("miou")) is not None] for index in shared
    }
    known = [index for index, values in scores.items() if len(values) == len(entries)]
    return sorted(known, key=lambda index: (min(scores[index]) - max(scores[index]), index))


def _figure(entries: Sequence[Entry], dataset: Dataset, index: int) -> str:
    """Show an image, its ground truth, what each model found, and where the first and another one differ."""
    loaded = [load(entry.folder, dataset, entry.images[index]) for entry in entries]
    pixels, truth, first = loaded[0]
    shots = [
        inline(Image.fromarray(pixels), "image", 200),
        inline(overlay(pixels, truth, dataset.classes), "ground truth", 200),
    ]
    for entry, (_, _, labels) in zip(entries, loaded, strict=True):
        score = percent(entry.images[index].scores.get("miou"))
        shots.append(inline(overlay(pixels, labels, dataset.classes), f"{entry.name}: {score}", 200))
    for entry, (_, _, labels) in zip(entries[1:], loaded[1:], strict=True):
        text = f"{entries[0].name} and {entry.name}"
        shots.append(inline(Image.fromarray(difference_map(truth, first, labels)), text, 200))
    colours = (
        (BOTH, "both right"), (FIRST, f"only {entries[0].name} right"), (OTHER, "only the other right"),
        (NEITHER, "both wrong"),
    )  # fmt: skip
    marks = "".join(f'<span class="key" style="background:rgb{color}"></span>{escape(text)}' for color, text in colours)
    caption = f"<b>{escape(entries[0].images[index].name)}</b>{key(dataset.classes, truth)}<br>maps: {marks}"
    return f'<figure><figcaption>{caption}</figcaption><div class="shots">{"".join(shots)}</div></figure>'


def difference_map(truth: np.ndarray, first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Colour each pixel by who is right.

    Args:
        truth: (H, W) integers; -1 void, which stays white.
        first: (H, W) integers, labels of one model.
        other: (H, W) integers, labels of another.

    Returns:
        (H, W, 3) uint8.
    """
    palette = np.array([NEITHER, OTHER, FIRST, BOTH, VOID_COLOR], np.uint8)
    places = 2 * (first == truth) + (other == truth)
    return palette[np.where(truth < 0, 4, places)]
