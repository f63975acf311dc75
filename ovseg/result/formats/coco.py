"""The classes of an image as a COCO file of annotations."""

from __future__ import annotations

from pathlib import Path

from ovseg.result.coco import MADE_BY, MARK, by_class
from ovseg.result.formats.base import Format
from ovseg.result.parts import Result
from ovseg.system.values import dump


class Coco(Format):
    """One annotation for each class that is present."""

    name = "coco"
    ending = ".coco.json"
    summary = "COCO annotations, one for each class"
    mark = MARK

    def write(self, result: Result, path: Path) -> None:
        """Write the JSON."""
        path.write_text(dump({"info": MADE_BY, **by_class(result, 0, "", 1)}) + "\n", encoding="utf-8")
