"""A folder of results in an object store (``s3://``, ``gs://``, whatever fsspec knows): what of it lies here, and when.

Images are labelled into a folder of the worker's machine and sent from there; of the job itself the first process holds
the log and what makes it, and sends them now and then, so that a job that is killed goes on from what was sent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ovseg.errors import EnvironmentProblem, InputError
from ovseg.jobs.label import folder as kept
from ovseg.jobs.rows import PARTS, WHOLE

EVERY = 20.0
"""Seconds between two sendings of the log."""
_STATE = (kept.INPUTS, kept.SEEN, WHOLE, kept.FAILED)


def is_remote(folder: str) -> bool:
    """Tell whether a folder is one of fsspec's."""
    return "://" in folder


class Mirror:
    """A remote folder."""

    def __init__(self, url: str) -> None:
        """Connect.

        Raises:
            EnvironmentProblem: There is no package for this kind of store.
            InputError: There is no such kind, or it cannot be reached.
        """
        import fsspec

        self.url = url
        with self._told("reached"):
            try:
                self.store, self.root = fsspec.core.url_to_fs(url)
            except ImportError as error:
                raise EnvironmentProblem(f"'{url}' needs another package: {' '.join(str(error).split())}") from error

    def send(self, folder: Path) -> None:
        """Send all files below a folder; those that are there are replaced.

        Raises:
            InputError: They cannot be written.
        """
        with self._told("written to"):
            for path in sorted(
                path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")
            ):
                self._put(path, path.relative_to(folder).as_posix())

    def send_log(self, folder: Path) -> None:
        """Send the log of a job that is at work."""
        with self._told("written to"):
            for path in sorted((folder / PARTS).glob("*.jsonl")):
                self._put(path, f"{PARTS}/{path.name}")

    def fetch(self, folder: Path) -> None:
        """Fetch the log of a job, and what makes it, into an empty folder.

        Raises:
            InputError: The remote folder cannot be read, or holds files and no job.
        """
        with self._told("read"):
            names = self.names()
            if names - {kept.SEEN, kept.INPUTS} and kept.RUN not in names:  # those are sent before it
                raise InputError(f"'{self.url}' holds files and no labelling job; choose another --output")
            for name in names:
                if name in (kept.RUN, *_STATE) or name.startswith(f"{PARTS}/"):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    self.store.get_file(f"{self.root}/{name}", str(folder / name))

    def names(self) -> set[str]:
        """Return the paths of all files, below the folder."""
        self.store.invalidate_cache()
        if not self.store.exists(self.root):
            return set()
        return {os.path.relpath(path, self.root).replace(os.sep, "/") for path in self.store.find(self.root)}

    def drop(self, names: set[str]) -> None:
        """Delete files, as far as they are there.

        Raises:
            InputError: They cannot be deleted.
        """
        with self._told("written to"):
            for name in sorted(names & self.names()):
                self.store.rm_file(f"{self.root}/{name}")

    def _put(self, path: Path, name: str) -> None:
        target = f"{self.root}/{name}"
        self.store.makedirs(os.path.dirname(target), exist_ok=True)
        self.store.put_file(str(path), target)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except (InputError, EnvironmentProblem):
            raise
        except Exception as error:  # each store raises errors of its own
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise InputError(f"'{self.url}' cannot be {what} ({reason}); check the address and your rights") from error


class Sender:
    """Sends the log of a job when some time has passed."""

    def __init__(self, mirror: Mirror, folder: Path) -> None:
        self._mirror, self._folder, self._sent = mirror, folder, time.monotonic()

    def __call__(self) -> None:
        """Send it, if it is time."""
        if time.monotonic() - self._sent >= EVERY:
            self._mirror.send_log(self._folder)
            self._sent = time.monotonic()


@contextlib.contextmanager
def mirrored(mirror: Mirror, fresh: bool) -> Iterator[Path]:
    """Give a folder of this machine for the job of a remote folder; what it holds at the end is sent.

    Args:
        mirror: The remote folder.
        fresh: Delete what an earlier job has written there.
    """
    with tempfile.TemporaryDirectory(prefix="ovseg-") as temporary:
        folder = Path(temporary)
        mirror.fetch(folder)
        if fresh:
            parts = {name for name in mirror.names() if name.startswith(f"{PARTS}/")}
            mirror.drop({*kept.read_folder(folder).files, *_STATE, kept.RUN} | parts)
            shutil.rmtree(folder)
            folder.mkdir()
        before = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        try:
            yield folder
        finally:
            mirror.send(folder)
            now = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            sent = {name for name in mirror.names() if name.startswith(f"{PARTS}/")}
            mirror.drop((before | sent) - now)
