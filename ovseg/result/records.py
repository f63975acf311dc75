"""What formats remember of images until the end of a run, on disk: masks of a thousand images fill a memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping

from ovseg.result.formats import Record, Written


class RecordFile:
    """Records of a run in a temporary file of JSON lines, which goes away with the object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()

    def add(self, written: Mapping[str, Written]) -> None:
        """Keep the records of an image."""
        self._file.seek(0, 2)
        self._file.write(json.dumps({name: one.record for name, one in written.items()}).encode() + b"\n")

    def __call__(self, name: str) -> Iterator[Record]:
        """Yield the records of a format in the order in which they came."""
        place = 0
        while True:
            self._file.seek(place)  # others may read, too
            line = self._file.readline()
            if not line:
                return
            place += len(line)
            yield json.loads(line)[name]
