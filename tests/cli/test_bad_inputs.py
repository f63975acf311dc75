"""Every mistake ends in one line that begins with ``error:``, the right exit code, and no half-written file."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ovseg.cli import main

Prepare = Callable[[Path], list[str]]


def image(name: str, pixels: np.ndarray | None = None, **options) -> Prepare:
    """An image file that is legal but unusual."""

    def prepare(folder: Path) -> list[str]:
        array = np.full((12, 16, 3), 120, np.uint8) if pixels is None else pixels
        mode = options.pop("mode", None)
        picture = Image.fromarray(array)
        (picture.convert(mode) if mode else picture).save(folder / name, **options)
        return [str(folder / name)]

    return prepare


def content(name: str, data: bytes) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        (folder / name).write_bytes(data)
        return [str(folder / name)]

    return prepare


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def empty_folder(folder: Path) -> list[str]:
    (folder / "empty").mkdir()
    (folder / "empty/notes.txt").touch()
    return [str(folder / "empty")]


def good(folder: Path) -> list[str]:
    return image("good.png")(folder)


def among_good_ones(folder: Path) -> list[str]:
    (folder / "many").mkdir()
    for name in ("a.png", "c.png"):
        image(name)(folder / "many")
    content("b.jpg", b"hello")(folder / "many")
    return [str(folder / "many")]


def animation(folder: Path) -> list[str]:
    frames = [Image.new("RGB", (16, 12), color) for color in ("red", "blue", "green")]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    return [str(folder / "moving.gif")]


def output_is_a_file(folder: Path) -> list[str]:
    (folder / "taken").touch()
    return [*good(folder), "--output", str(folder / "taken")]


def output_below_a_file(folder: Path) -> list[str]:
    (folder / "taken").touch()
    return [*good(folder), "--output", str(folder / "taken/out")]


def output_is_not_writable(folder: Path) -> list[str]:
    (folder / "locked").mkdir(mode=0o500)
    where = folder / "locked" / "out"
    if os.access(folder / "locked", os.W_OK):  # root may write anywhere, but not here
        where = Path("/proc/ovseg-out")
    return [*good(folder), "--output", str(where)]


def model_with(change: Callable[[Path], None]) -> Prepare:
    """A copy of the tiny CLIP (found in the environment of the test) with something wrong in it."""

    def prepare(folder: Path) -> list[str]:
        shutil.copytree(folder / "tiny-clip", folder / "model")
        change(folder / "model")
        return [*good(folder), "--model", str(folder / "model")]

    return prepare


def truncate(model: Path) -> None:
    file = model / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])


def foreign(model: Path) -> None:
    save_file({"backbone.conv.weight": torch.zeros(3, 3)}, model / "open_clip_model.safetensors")


def no_config(model: Path) -> None:
    (model / "open_clip_config.json").unlink()


def no_weights(model: Path) -> None:
    (model / "open_clip_model.safetensors").unlink()


def with_options(*options: str) -> Prepare:
    return lambda folder: [*good(folder), *options]


def words(text: str) -> Prepare:
    return with_options("--classes", text)


def words_of_a_file(name: str, data: bytes) -> Prepare:
    return lambda folder: [*good(folder), "--classes", *content(name, data)(folder)]


CASES: dict[str, tuple[Prepare, int, str]] = {
    "missing file": (lambda folder: [str(folder / "none.jpg")], 2, "not found"),
    "URL": (lambda folder: ["https://example.org/cat.jpg"], 2, "URL"),
    "folder without images": (empty_folder, 2, "holds no images"),
    "truncated JPEG": (content("cut.jpg", encoded("JPEG")[:2000]), 1, "cut.jpg' is damaged"),
    "truncated PNG": (content("cut.png", encoded("PNG")[:2000]), 1, "cut.png' is damaged"),
    "text named .jpg": (content("text.jpg", b"not a picture at all\n"), 1, "holds text, not an image"),
    "0 bytes": (content("zero.png", b""), 1, "is empty (0 bytes)"),
    "one broken among good ones": (among_good_ones, 1, "b.jpg"),
    "1x1": (image("dot.png", np.full((1, 1, 3), 9, np.uint8)), 0, ""),
    "20000x10": (image("strip.png", np.full((10, 20000, 3), 9, np.uint8)), 0, ""),
    "10x20000": (image("pole.png", np.full((20000, 10, 3), 9, np.uint8)), 0, ""),
    "animated GIF": (animation, 0, "has 3 frames; the first was used"),
    "CMYK": (image("print.jpg", mode="CMYK"), 0, ""),
    "16 bit": (image("deep.png", np.arange(192, dtype=np.uint16).reshape(12, 16) * 300), 0, ""),
    "palette": (image("few.png", mode="P"), 0, ""),
    "no classes": (words(""), 2, "empty text"),
    "empty class": (words("cat,, sofa"), 2, "class 1 is empty"),
    "empty synonym": (words("cat|, sofa"), 2, "class 0 is empty"),
    "duplicate classes": (words("cat, dog, Cat"), 2, "duplicate names: 'cat' in class 0 and 'Cat' in class 2"),
    "duplicate synonym": (words("cat|dog, dog"), 2, "duplicate names"),
    "5000-character class": (words("x" * 5000 + ", cat"), 2, "has 5000 characters"),
    "emoji and right-to-left classes": (words("🦩, 👩‍👩‍👧, قطة, כלב"), 0, ""),
    "line breaks and commas": (words("cat\nfish, dog"), 2, "line 2 ('fish, dog') holds a comma"),
    "foreign separator": (words("cat; dog"), 2, "write synonyms as 'cat|dog'"),
    "missing words file": (words("./none.txt"), 2, "does not exist"),
    "words file that is binary": (words_of_a_file("w.txt", b"\xff\xd8\xff\xe0"), 2, "not UTF-8"),
    "words file that is no JSON": (words_of_a_file("w.json", b"{cat}"), 2, "not valid JSON"),
    "unknown preset": (words("voc2012"), 2, "unknown vocabulary preset 'voc2012'"),
    "unknown model": (with_options("--model", "minni"), 2, "did you mean mini"),
    "unknown method": (with_options("--model", "sklip/mini"), 2, "did you mean 'sclip/mini'"),
    "unknown device": (with_options("--device", "gpu"), 2, "unknown device 'gpu'"),
    "unknown dtype": (with_options("--dtype", "int4"), 2, "unknown dtype 'int4'"),
    "unknown background": (with_options("--background", "wrods"), 2, "did you mean words"),
    "threshold out of range": (with_options("--background", "threshold:40"), 2, "above 0 and at most 1"),
    "unknown templates": (with_options("--templates", "openai"), 2, "did you mean openai7, openai80"),
    "batch size 0": (with_options("--batch-size", "0"), 2, "batch size is 0"),
    "output is a file": (output_is_a_file, 2, "a file is in its place"),
    "output below a file": (output_below_a_file, 2, "a file is in its place"),
    "output without permission": (output_is_not_writable, 2, "cannot be written to"),
    "corrupt weights": (model_with(truncate), 2, "cannot be read"),
    "foreign weights": (model_with(foreign), 2, "expected the weights of an image and a text tower"),
    "weights without config": (model_with(no_config), 2, "expected open_clip_config.json"),
    "config without weights": (model_with(no_weights), 2, "holds no weights"),
}


@pytest.fixture(autouse=True)
def tiny_clip_at_hand(tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-clip").symlink_to(tiny_clip)


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, tmp_path, tiny_clip, capfd):
    prepare, expected, message = CASES[case]
    out = tmp_path / "out"
    arguments = prepare(tmp_path)
    defaults = {"--classes": "cat, dog", "--model": str(tiny_clip), "--output": str(out), "--templates": "simple"}
    for option, value in defaults.items():
        arguments += [] if option in arguments else [option, value]
    status = main(["segment", *arguments])
    stdout, stderr = capfd.readouterr()
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert status == expected, stderr
    assert "Traceback" not in stdout + stderr
    assert message in stdout + stderr
    if expected:
        assert stderr.splitlines() == errors and len(errors) == 1 and message in errors[0]
    else:
        told = ["note: tiny-clip has hardly learnt 3 of 4 texts"] if case == "emoji and right-to-left classes" else []
        assert [line[: len(told[0])] if told else line for line in stderr.splitlines()] == told
    written = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    assert not [name for name in written if name.startswith(".")]
    stems = {"one broken among good ones": ["a", "c"]}.get(case, [Path(arguments[0]).stem] if expected == 0 else [])
    assert written == sorted(f"{stem}.{end}" for stem in stems for end in ("json", "labels.png", "overlay.png"))


def test_there_are_enough_cases():
    assert len(CASES) >= 25


def test_memory_for_a_long_strip_and_many_classes(tmp_path, tiny_clip):
    import resource

    (path,) = CASES["20000x10"][0](tmp_path)
    arguments = ["segment", path, "--model", str(tiny_clip), "--output", str(tmp_path), "--templates", "simple"]
    main([*arguments, "--classes", "cat, dog"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    main([*arguments, "--classes", ", ".join(f"thing {i}" for i in range(1000))])
    assert Image.open(tmp_path / "strip.labels.png").size == (20000, 10)
    # One float for every class and pixel would be 800 MB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_damaged_cache_entry_is_computed_again(tmp_path, tiny_clip, capsys, monkeypatch):
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    arguments = ["segment", *good(tmp_path), "--classes", "cat, dog", "--model", str(tiny_clip)]
    assert main([*arguments, "--output", str(tmp_path / "first")]) == 0
    capsys.readouterr()
    entries = list((tmp_path / "cache").rglob("*.safetensors"))
    assert entries
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-20] + b"\x00" * 20)
    assert main([*arguments, "--output", str(tmp_path / "second")]) == 0
    warned = capsys.readouterr().err.splitlines()
    assert len(warned) == 1 and warned[0].startswith("warning: text cache file") and "computed again" in warned[0]
    labels = [(tmp_path / run / "good.labels.png").read_bytes() for run in ("first", "second")]
    assert labels[0] == labels[1]
    assert main([*arguments, "--output", str(tmp_path / "third")]) == 0
    assert capsys.readouterr().err == ""
