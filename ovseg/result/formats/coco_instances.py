"""The objects of an image as a COCO file of annotations."""

from __future__ import annotations

from pathlib import Path

from ovseg.result.coco import MADE_BY, MARK, by_instance
from ovseg.result.formats.base import Format
from ovseg.result.parts import Result
from ovseg.system.values import dump


class CocoInstances(Format):
    """One annotation for each object."""

    name = "coco_instances"
    ending = ".instances.json"
    summary = "COCO annotations, one for each object"
    needs = ("instances",)
    mark = MARK

    def write(self, result: Result, path: Path) -> None:
        """Write the JSON.

        Raises:
            InputError: The model gave no objects.
        """
        path.write_text(dump({"info": MADE_BY, **by_instance(result, 0, "", 1)}) + "\n", encoding="utf-8")
