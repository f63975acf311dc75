"""The log of an evaluation (`ovseg.jobs.rows`): what made its numbers, and what was measured on each image."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovseg.errors import InputError
from ovseg.jobs import rows
from ovseg.jobs.identity import made_by
from ovseg.system.values import changes


@dataclass(frozen=True)
class ImageRecord:
    """What was measured on one image; JSON keeps it to the bit.

    Attributes:
        index: Its place in the data set.
        name: Path below the folder of images, see `Dataset.image_name`.
        size: Height and width of the ground truth.
        error: Why it could not be evaluated, in one line; empty if it was.
        seconds: Time of the model.
        peak: Most memory in use so far, bytes.
        notes: What the reader of the result should know.
        scores: Numbers of this image alone, 0..1; None where there is nothing to average.
        measured: For each task what its evaluator counts (`ovseg.evaluation.metrics.state`); of prompts a list.
        labels: Where below the folder of labels those of the image are; empty if there are none.
    """

    index: int
    name: str
    size: tuple[int, int] = (0, 0)
    error: str = ""
    seconds: float = 0.0
    peak: int = 0
    notes: tuple[str, ...] = ()
    scores: dict[str, float | None] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    labels: str = ""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ImageRecord:
        """Read what `dataclasses.asdict` gave."""
        return cls(**{**values, "size": tuple(values["size"]), "notes": tuple(values["notes"])})


@dataclass
class Log:
    """What is known of a run.

    Attributes:
        sources: What made the predictions (name, weights hash, settings, ...), once for each set of versions of
            packages by which images were done; no numbers of different weights or settings are in one log.
        images: Records by place in the data set.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    images: dict[int, ImageRecord] = field(default_factory=dict)

    @property
    def source(self) -> dict[str, Any]:
        """What made the predictions; empty where there are none."""
        return self.sources[0] if self.sources else {}

    @property
    def ordered(self) -> list[ImageRecord]:
        """All records in the order of the data set."""
        return [self.images[index] for index in sorted(self.images)]

    @property
    def good(self) -> list[ImageRecord]:
        """The records of images that could be evaluated, in the order of the data set."""
        return [record for record in self.ordered if not record.error]


def read_log(folder: Path) -> Log:
    """Read all that earlier and present processes have written.

    Raises:
        InputError: The processes had different weights or settings.
    """
    log = Log()
    for row in rows.read_rows(folder):
        with contextlib.suppress(TypeError, KeyError):  # what is no line of a log
            _take(log, row, folder)
    return log


def _take(log: Log, row: dict[str, Any], folder: Path) -> None:
    """Add one line of a file."""
    if "source" in row:
        source = row["source"]
        if log.sources and (changed := changes(made_by(log.source), made_by(source))):
            raise InputError(
                f"'{folder}' holds images of different runs ({'; '.join(changed)}); start anew with --fresh, or choose "
                "another --output"
            )
        if source not in log.sources:
            log.sources.append(source)
        return
    record = ImageRecord.from_json(row)
    if not record.error or record.index not in log.images:
        log.images[record.index] = record


@contextlib.contextmanager
def appending(folder: Path, source: dict[str, Any], name: str) -> Iterator[Callable[[ImageRecord], None]]:
    """Open a file of this process for records; see `ovseg.jobs.rows.appending`.

    Args:
        folder: Of the run.
        source: What makes the predictions; it has been compared with what is there.
        name: Of the process.

    Yields:
        What writes a record.

    Raises:
        InputError: The file cannot be written; what yields raises it, too.
    """
    with rows.appending(folder, name) as write:
        write({"source": source})
        yield lambda record: write(dataclasses.asdict(record))


def close_log(folder: Path, log: Log) -> None:
    """Replace the files of the processes by one, in the order of the data set."""
    sources: Iterator[dict[str, Any]] = ({"source": source} for source in log.sources)
    rows.close_rows(folder, itertools.chain(sources, map(dataclasses.asdict, log.ordered)))
