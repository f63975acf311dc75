"""The work on images: each is read, segmented, written and described by a row; the three overlap, in order."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ovseg.contract import Words
from ovseg.data.images import LoadedImage, read_image
from ovseg.errors import InputError
from ovseg.jobs.label.containers import Fetcher, Item
from ovseg.jobs.label.exports import Exports
from ovseg.jobs.label.plan import LabelPlan
from ovseg.jobs.review.thumbs import save_thumb, thumb_of
from ovseg.jobs.rows import Row
from ovseg.system.overlap import overlapped, worker_threads
from ovseg.system.values import short_hash

if TYPE_CHECKING:
    from ovseg.result.segmentation import Segmentation
    from ovseg.segmenter import Segmenter


class Labeller:
    """Labels the images of a job in this process."""

    def __init__(self, plan: LabelPlan, folder: Path, segmenter: Segmenter, words: Words) -> None:
        """Prepare.

        Args:
            plan: Of the job.
            folder: Of the results.
            segmenter: Of `LabelPlan.load`.
            words: Of `LabelPlan.words`.
        """
        self.plan, self.folder, self.segmenter, self.words = plan, folder, segmenter, words
        self.want = plan.want(segmenter)
        self.exports = Exports(plan.formats, plan.options, folder)

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """Label images, and yield a row for each, in order, when its files are written.

        What is wrong with an image stands in its row.

        Raises:
            InputError: Results cannot be written.
        """
        threads, fetcher = worker_threads(), Fetcher()
        try:
            read = overlapped(self._read, _fetched(fetcher, items), threads, threads)
            labelled = (self._segment(item, loaded()) for (item, _), loaded in read)
            for _, written in overlapped(self._write, labelled, threads, threads):
                yield written()
        finally:
            fetcher.close()

    def _read(self, fetched: tuple[Item, Any]) -> LoadedImage | InputError:
        """Decode what was fetched; runs in a thread."""
        item, source = fetched
        if isinstance(source, InputError):
            return source
        try:
            found = read_image(source, self.plan.bands, self.plan.max_pixels)
        except InputError as error:
            return error
        except Exception as error:  # of a decoder: one image of a million must not end the job
            return InputError(f"'{item.key}' cannot be read ({type(error).__name__}: {_line(error)})")
        return dataclasses.replace(found, name=item.key)

    def _segment(self, item: Item, image: LoadedImage | InputError) -> tuple[Item, Segmentation | InputError, float]:
        start = time.perf_counter()
        if isinstance(image, InputError):
            return item, image, 0.0
        # What is random in a model must not depend on the images before.
        torch.manual_seed(int(short_hash(os.fsencode(item.key)), 16) % 2**63)
        try:
            result = self.segmenter.encode(image).answer(self.words, want=self.want)
        except InputError as error:
            return item, error, time.perf_counter() - start
        return item, result, time.perf_counter() - start

    def _write(self, labelled: tuple[Item, Segmentation | InputError, float]) -> Row:
        """Write all files of an image; runs in a thread."""
        item, found, seconds = labelled
        row: Row = {"image": item.key, "file": item.file, "name": item.name, "error": "", "seconds": round(seconds, 4)}
        if isinstance(found, InputError):
            return {**row, "error": str(found)}
        result = self.plan.cleaning(found)
        own = result.meta
        del own["timings"]  # times are in one file of the job, so that all others are the same in any run
        own |= {"image": item.key, "path": item.place, "device": self.segmenter.device.type}
        thumb = thumb_of(self.folder, item.name)
        try:
            written = self.exports.put(result, item)
            save_thumb(result, thumb)
        except (InputError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno is not None:  # of the disk and not of the image
                raise InputError(f"{error}; what was done is kept, run the same command again to go on") from error
            return {**row, "error": str(error) if cause is not error else f"'{item.key}' cannot be written ({error})"}
        files = [*self.exports.files(item), thumb]
        return {
            **row,
            "size": list(result.labels.shape),
            "score": round(float(result.scores.mean(dtype=np.float64)), 6),
            "classes": [[one.class_id, one.area, round(one.score, 6)] for one in result.segments],
            "notes": [*own["notes"], *(note for one in written.values() for note in one.notes)],
            "files": [path.relative_to(self.folder).as_posix() for path in files],
            "records": {name: dict(one.record) for name, one in written.items()},
        }


def _fetched(fetcher: Fetcher, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
    for item in items:
        try:
            yield item, fetcher(item)
        except InputError as error:
            yield item, error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
