"""The examples of docs/interop.md run with the packages that they are for, and give what those show."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.data.images import read_image
from ovseg.result.notebook import result_html

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*mini knows drawings alone")


def blocks(heading: str, language: str = "python") -> list[str]:
    """Return the blocks of a section of the page."""
    page = (ROOT / "docs/interop.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two of the examples."""
    (tmp_path / "examples").mkdir()
    for name in ("beach.jpg", "desk.jpg"):
        (tmp_path / "examples" / name).write_bytes((ROOT / "examples" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_examples_are_short() -> None:
    found = [block for heading in ("supervision", "FiftyOne", "Label Studio") for block in blocks(heading)]
    assert len(found) == 4 and all(len(block.splitlines()) < 20 for block in found)


@pytest.mark.slow
def test_notebooks() -> None:
    names = run(blocks("Notebooks")[0])
    first, second = names["first"], names["second"]
    assert 0 < first.compare(second).share < 1 and "<img" in result_html(first, "x")


@pytest.mark.slow
def test_transformers() -> None:
    names = run(blocks("transformers")[0])
    assert [tuple(one.shape) for one in names["maps"]] == [(240, 320), (480, 640)]


@pytest.mark.slow
def test_supervision(folder: Path) -> None:
    supervision = pytest.importorskip("supervision")
    names = run(blocks("supervision")[0])
    result, detections = names["result"], names["detections"]
    assert isinstance(detections, supervision.Detections) and len(detections) == len(result.segments) > 1
    assert detections.area.sum() == (result.labels >= 0).sum() and len(names["large"]) >= 1
    drawn = np.asarray(Image.open(folder / "supervised.png"))
    assert drawn.shape == result.image.shape and (drawn != result.image).any(-1)[result.labels >= 0].mean() > 0.9


@pytest.mark.slow
def test_fiftyone() -> None:
    """Samples need no data base; the data set does, and is not tried here."""
    fiftyone = pytest.importorskip("fiftyone")
    names = run(blocks("FiftyOne")[0])
    result, sample = names["result"], names["samples"][-1]
    assert len(names["samples"]) == 2 and isinstance(sample, fiftyone.Sample)
    assert np.array_equal(sample["ovseg"].mask, result.labels + 1)
    again = np.full(result.labels.shape, -1)
    height, width = again.shape
    for one in sample["classes"].detections:
        left, top, wide, high = (
            round(part * size) for part, size in zip(one.bounding_box, (width, height) * 2, strict=True)
        )
        assert one.mask.shape == (high, wide)
        again[top : top + high, left : left + wide][one.mask] = result.classes.names.index(one.label)
    assert np.array_equal(again, result.labels)


@pytest.fixture
def studio() -> Iterator[tuple[str, list[tuple[str, Any]]]]:
    """A server that makes a project and takes tasks; what it was sent."""
    sent: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: Any) -> None:
            """Print nothing."""

        def do_POST(self) -> None:
            sent.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            body = json.dumps({"id": 7, "title": "photographs", "task_count": 2}).encode()
            self.send_response(201)
            for key, text in (("Content-Type", "application/json"), ("Content-Length", str(len(body)))):
                self.send_header(key, text)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_label_studio(folder: Path, studio: tuple[str, list[tuple[str, Any]]], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("label_studio_sdk")
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    (command,) = blocks("Label Studio", "bash")
    words = re.findall(r'"[^"]*"|\S+', command)
    assert main([word.strip('"') for word in words[1:]]) == 0
    address, sent = studio
    monkeypatch.setenv("LABEL_STUDIO_URL", address)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    run(blocks("Label Studio")[0])
    (made, project), (imported, tasks) = sent
    assert made.rstrip("/") == "/api/projects" and imported.startswith("/api/projects/7/import")
    interface = LabelInterface(project["label_config"])
    interface.validate()
    assert len(tasks) == 2
    for task in tasks:
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction)
        picture = read_image(folder / "out/label-studio" / task["data"]["image"].partition("?d=")[2]).pixels
        covered = np.zeros(picture.shape[:2], int)
        for region in prediction["result"]:
            decoded = np.array(decode_rle(region["value"]["rle"])).reshape(*picture.shape[:2], 4)
            covered += decoded[..., 3] > 0
        assert covered.max() == 1 and covered.mean() > 0.99
