"""What the tests of the page share: a service with the embedded model, and the page as a process of its own."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from ovseg.serve.limits import Limits
from ovseg.serve.models import Models
from ovseg.serve.service import Service
from tests.conftest import make_photo

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0


def encoded(pixels: np.ndarray, kind: str = "JPEG") -> bytes:
    """Return the bytes of an image file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A photograph of 96 x 72 pixels as a file."""
    return encoded(make_photo(96, 72))


@pytest.fixture(scope="session")
def models() -> Models:
    """The embedded model, and a training-free method on it."""
    return Models(["mini", "sclip/mini"], 3)


@pytest.fixture
def service(models: Models) -> Service:
    """A page without its server."""
    return Service(models, Limits())


def find_chromium() -> str:
    """Return the path of a Chromium of this machine; empty where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return os.environ.get("CHROMIUM", "") or next(filter(None, map(shutil.which, names)), "")


class Page(NamedTuple):
    """A page that runs as a process."""

    address: str
    process: subprocess.Popen[str]

    def memory(self) -> float:
        """Megabytes that it holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def running(*flags: str, folder: Path | None = None) -> Iterator[Page]:
    """Run ``ovseg serve`` on a free port of this machine."""
    call = [sys.executable, "-m", "ovseg.cli", "serve", "--port", "0", "--model", "mini", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        call, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield Page(_address(process), process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.stdout and not process.stdout.closed:
            process.communicate()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("http://127.0.0.1"):
        process.kill()
        raise AssertionError(f"the page did not start: {line}{process.communicate()}")
    return line.split()[0].split("?")[0].rstrip("/")


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    """A page for tests that leave it as it is."""
    with running("--models", "sclip/mini") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a window."""
    from tests.serve.browser import launched

    yield from launched()


@pytest.fixture
def tab(browser: Any, page: Page) -> Iterator[Any]:
    """A fresh tab on a page."""
    from tests.serve.browser import opened

    yield from opened(browser, page.address)


def until(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Wait for something; tell whether it came."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
