"""The rule of every number, in words: read from where it is written once, the docstrings of the results."""

from __future__ import annotations

import inspect
import re
from typing import Any

from ovseg.evaluation.metrics.panoptic import PanopticResult, Quality

IMAGE_RULES = {
    "miou": "Mean over images of the mean IoU of the classes that an image shows, or of its prompts.",
    "things_miou": "Mean over images of the mean IoU of the things that an image shows.",
    "pixel_accuracy": "Mean over images of the share of labelled pixels that are right.",
    "pq": "Mean over images of the mean PQ over the classes of an image or of its predictions.",
}
"""Of the numbers of single images."""


def attributes(kind: type) -> dict[str, str]:
    """Return what the docstring of a class says about each of its attributes."""
    text = inspect.getdoc(kind) or ""
    _, _, block = text.partition("Attributes:\n")
    found: dict[str, str] = {}
    name = ""
    for line in block.splitlines():
        if match := re.match(r" {4}(\w+): (.*)", line):
            name = match[1]
            found[name] = match[2]
        elif name and line.startswith(" " * 8):
            found[name] += " " + line.strip()
        elif line.strip():
            break
    return found


def rules(result: Any) -> dict[str, str]:
    """Return a sentence for each number of a result's `to_json`."""
    known = attributes(type(result))
    if isinstance(result, PanopticResult):
        parts = attributes(Quality)
        for group in ("overall", "things", "stuff", "base", "novel"):
            suffix = "" if group == "overall" else f"_{group}"
            known |= {f"{key}{suffix}": f"{text} {known[group]}" for key, text in parts.items()}
    return {name: known.get(name, "") for name in result.to_json()}


def counting(evaluator: Any) -> str:
    """Return how an evaluator counts, from its docstring: all but the first line."""
    _, _, rest = (inspect.getdoc(type(evaluator)) or "").partition("\n\n")
    return " ".join(rest.split()) or (inspect.getdoc(type(evaluator)) or "")
