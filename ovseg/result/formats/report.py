"""A summary in JSON: every class with its area and mean score, and what made the result."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ovseg.result.formats.base import Format
from ovseg.result.formats.labels import PNG_NO_CLASS
from ovseg.result.measures import summarise
from ovseg.result.objects import to_json
from ovseg.result.parts import Result
from ovseg.system.values import dump, plain, short_hash


class Report(Format):
    """The summary as a file."""

    name = "report"
    ending = ".json"
    summary = "area and mean score of each class, settings"
    mark = b'"label_values"'

    def write(self, result: Result, path: Path, image: str = "") -> None:
        """Write the JSON.

        Raises:
            InputError: The meta data has no JSON form.
        """
        path.write_text(dump(report(result, image), indent=2) + "\n", encoding="utf-8")


def report(result: Result, image: str = "") -> dict[str, Any]:
    """Return the summary as JSON values: every class of the vocabulary in the user's order, and the meta data.

    ``input`` says of what: the name of the image in its run (``image``, else its file name), the absolute path of its
    file, and a hash of its pixels as they were segmented.
    """
    height, width = result.labels.shape
    present = {segment.class_id: segment for segment in result.segments}
    return {
        "input": {
            "name": image or str(result.meta.get("image", "")),
            "path": os.path.abspath(result.meta["path"]) if result.meta.get("path") else None,
            "pixels": short_hash(result.image.tobytes()),
        },
        "width": width,
        "height": height,
        "label_values": {"class": "id of the class (position in the given list)", "no_class": PNG_NO_CLASS},
        "classes": [summarise(i, entry, present.get(i)) for i, entry in enumerate(result.classes)],
        "no_class_fraction": 1 - sum(segment.area for segment in result.segments) / result.labels.size,
        **to_json(result.panoptic, result.instances),
        "meta": plain(result.meta),
    }
