"""A summary in JSON: every class with its area and mean score, and what made the result."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.result.formats.base import Format
from ovseg.result.formats.labels import PNG_NO_CLASS, label_values
from ovseg.result.measures import summarise
from ovseg.result.objects import to_json
from ovseg.result.parts import Result
from ovseg.system.values import dump, plain
from ovseg.vocabulary import Vocabulary


class Report(Format):
    """The summary as a file."""

    name = "report"
    ending = ".json"
    summary = "area and mean score of each class, settings"
    mark = b'"label_values"'

    def __init__(self, *, own_ids: bool = False) -> None:
        """Choose what the summary says of label maps; see `ovseg.result.formats.labels.Labels`."""
        self.own_ids = own_ids

    def check(self, classes: Vocabulary, folder: Path, gone: Collection[Path] = ()) -> None:
        """Refuse classes that label maps cannot hold."""
        label_values(classes, self.own_ids)

    def write(self, result: Result, path: Path) -> None:
        """Write the JSON.

        Raises:
            InputError: The meta data has no JSON form.
        """
        path.write_text(dump(report(result, self.own_ids), indent=2) + "\n", encoding="utf-8")


def report(result: Result, own_ids: bool = False) -> dict[str, Any]:
    """Return the summary as JSON values: every class of the vocabulary in the user's order, and the meta data.

    ``input`` says of what: the name of the image, the absolute path of its file, and a hash of its pixels as they were
    segmented.

    Args:
        result: Of one image.
        own_ids: Whether the label map has ids as values, which ``label`` of a class tells.

    Raises:
        InputError: As `ovseg.result.formats.labels.label_values`.
    """
    height, width = result.labels.shape
    present = {segment.class_id: segment for segment in result.segments}
    ids = result.classes.ids or list(range(len(result.classes)))
    values = label_values(result.classes, own_ids)
    parts = to_json(result.panoptic, result.instances)
    return {
        "width": width,
        "height": height,
        "label_values": {"class": "its label", "no_class": PNG_NO_CLASS},
        "input": {
            "name": str(result.meta.get("image", "")),
            "path": os.path.abspath(result.meta["path"]) if result.meta.get("path") else None,
            "pixels": hashlib.sha256(np.ascontiguousarray(result.image).data).hexdigest()[:16],
        },
        "classes": [
            {**summarise(ids[i], entry, present.get(i)), "label": values[i]} for i, entry in enumerate(result.classes)
        ],
        "no_class_fraction": 1 - sum(segment.area for segment in result.segments) / result.labels.size,
        **{key: [{**one, "class_id": ids[one["class_id"]]} for one in found] for key, found in parts.items()},
        "meta": plain(result.meta),
    }
