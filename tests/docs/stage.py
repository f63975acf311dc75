"""A folder in which the blocks of a page are run: what a reader in a checkout has, and what pages take for given.

- the files of the checkout, as copies (large ones that nobody writes to are links);
- ``photo.jpg``, ``photos/``, ``clip.mp4`` and ``shards/``: small pictures;
- ``words.txt``: three classes; ``mydata/``, ``otherdata/``: labelled folders of these classes;
- ``data/scenes/{train,val,novel,photo}``: a few scenes, and the bank that they are made of;
- ``data/coco``: four images in COCO's own layout, labelled by COCO-Stuff and COCO panoptic;
- ``bin/``: ``ovseg`` and ``python`` of this environment.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import cv2
import numpy as np
from PIL import Image

from ovseg.data.benchmarks.coco import PUBLISHED
from ovseg.data.scenes.bank import Bank
from ovseg.data.scenes.writing import write_split
from ovseg.vocabulary import Vocabulary
from tests.conftest import make_photo
from tests.docs.blocks import ROOT, Block

CLASSES = ("cat|kitten", "sofa", "wall")
SECONDS = 400
"""A block that takes longer has gone wrong."""


def build(folder: Path, bank: Bank) -> Path:
    """Make the folder of a page and return it."""
    unneeded = shutil.ignore_patterns("__pycache__", "assets", "prebuilt")
    for name in ("ovseg", "configs", "examples", "datasets", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=unneeded)
    (folder / "ovseg/assets").symlink_to(ROOT / "ovseg/assets")
    (folder / "tests").mkdir()
    (folder / "tests/golden").symlink_to(ROOT / "tests/golden")
    for name in ("README.md", "pyproject.toml", "Makefile", "setup.py"):
        shutil.copy(ROOT / name, folder / name)
    _pictures(folder)
    _data(folder / "mydata", 12)
    _data(folder / "otherdata", 4)
    (folder / "words.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for split in ("train", "val", "novel", "photo"):
        write_split(bank, split, 4, 64, 0, folder / "data/scenes")
    bank.save(folder / "data/scenes/bank.safetensors")
    _coco(folder / "data/coco")
    (folder / "bin").mkdir()
    for name, words in (("ovseg", "-m ovseg.cli"), ("python", "")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    return folder


def _pictures(folder: Path) -> None:
    for index in range(4):
        path = folder / f"photos/cam{index % 2}/{index:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_photo(96, 72, seed=index)).save(path)
    shutil.copy(folder / "photos/cam0/0000.jpg", folder / "photo.jpg")
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards/0.tar", "w") as archive:
        archive.add(folder / "photo.jpg", "0001.jpg")
    film = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 25, (96, 72))
    for index in range(50):
        film.write(make_photo(96, 72, seed=index // 25)[..., ::-1])
    film.release()


def _data(folder: Path, count: int) -> None:
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    for index in range(count):
        pixels = make_photo(80, 60, seed=100 * count + index)
        labels = np.full((60, 80), 2, np.uint8)
        labels[:8] = 255
        for label, left in ((0, 6 + index), (1, 44)):
            place = (slice(14 + label, 50), slice(left, left + 24))
            pixels[place], labels[place] = (200 - 150 * label, 60, 40 + 180 * label), label
        Image.fromarray(pixels).save(folder / f"images/{index:02d}.jpg")
        Image.fromarray(labels).save(folder / f"labels/{index:02d}.png")


def _coco(folder: Path) -> None:
    """Write two images of each split, half of them a person (1 of the panoptic list), half wood or a rug (the last)."""
    published = {new[0]: old for old, new in PUBLISHED.items()}
    categories = [
        {"id": index + 1, "name": published.get(entry.name, entry.name), "isthing": int(entry.is_thing)}
        for index, entry in enumerate(Vocabulary.parse("coco133"))
    ]
    for split in ("train2017", "val2017"):
        for name in (split, f"stuffthingmaps/{split}", f"panoptic_{split}", "annotations"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for index in range(2):
            Image.fromarray(make_photo(96, 64, seed=index)).save(folder / split / f"{index}.jpg")
            left = np.broadcast_to(np.arange(96) < 48, (64, 96))
            stuff, ids = (np.where(left, *values).astype(np.uint8) for values in ((0, 181), (1, 2)))
            Image.fromarray(stuff).save(folder / f"stuffthingmaps/{split}/{index}.png")
            Image.fromarray(np.stack([ids, ids * 0, ids * 0], -1)).save(folder / f"panoptic_{split}/{index}.png")
            images.append({"id": index, "file_name": f"{index}.jpg", "height": 64, "width": 96})
            segments = [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 133}]
            annotations.append({"image_id": index, "file_name": f"{index}.png", "segments_info": segments})
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / f"annotations/panoptic_{split}.json").write_text(text, encoding="utf-8")


def environment(folder: Path) -> dict[str, str]:
    """Return what a block finds around it."""
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }


def run(block: Block, folder: Path, before: str = "") -> str:
    """Run a block as its marks say and return what it printed.

    Args:
        block: With its marks.
        folder: The page's.
        before: Python that ran before it on the page, for a block that goes on.
    """
    code, marks = block.to_run(), block.marks
    if place := marks.get("file"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(code, encoding="utf-8")
        return ""
    if text := marks.get("serves"):
        return ended(code, folder, text)
    if command := marks.get("while running"):
        with Beside(command, folder, "http://"):
            return _finished(block, code, folder, before)
    return _finished(block, code, folder, before)


def _finished(block: Block, code: str, folder: Path, before: str) -> str:
    call = ["bash", "-euo", "pipefail", "-c", code]
    if block.language == "python":
        call = [sys.executable, "-c", (before if "goes on" in block.marks else "") + code]
    done = subprocess.run(
        call,
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    expected = block.marks.get("fails")
    if expected is None:
        assert done.returncode == 0, f"line {block.line} ended with {done.returncode}:\n{code}\n{done.stdout}"
    else:
        assert done.returncode != 0 and expected in done.stdout, f"line {block.line}: no '{expected}':\n{done.stdout}"
    return done.stdout


class Beside:
    """A command that runs beside a block, and ends in order when it is told to."""

    def __init__(self, command: str, folder: Path, ready: str) -> None:
        """Start it and wait for what it prints when it is ready."""
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command.strip()}"],
            cwd=folder,
            env=environment(folder) | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line)
            if ready in line:
                wait_for(re.search(r"http://[\w.:]+", line))
                return
        raise AssertionError(f"'{command}' ended with {self.process.wait()}:\n{''.join(self.lines)}")

    def __enter__(self) -> Beside:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it by SIGTERM; it has to end with 0."""
        self.process.terminate()
        self.lines += self.process.communicate(timeout=60)[0].splitlines(keepends=True)
        assert self.process.returncode == 0, "".join(self.lines)


def wait_for(address: re.Match[str] | None) -> None:
    """Wait until an address that was printed answers; a signal before that ends a program that has not begun."""
    for _ in range(600 if address else 0):
        try:
            build_opener(ProxyHandler({})).open(address[0], timeout=60).close()
            return
        except OSError:
            time.sleep(0.1)


def ended(code: str, folder: Path, text: str) -> str:
    """Start each line of a block, end it when it has printed a text, and return all output."""
    lines: list[str] = []
    for command in filter(None, (line.partition(" #")[0].strip() for line in code.splitlines())):
        with Beside(command, folder, text) as beside:
            pass
        lines += beside.lines
    return "".join(lines)
