from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.result.formats.labels import read_label_png

WORDS = "cat, red chair|armchair, window"


@pytest.fixture
def segment(tiny_clip, capsys):
    """Run ``ovseg segment`` in this process; returns exit code, stdout and stderr."""

    def run(*arguments, classes=WORDS, model=tiny_clip):
        words = [*map(str, arguments), "--classes", classes, "--model", str(model), "--device", "cpu"]
        status = main(["segment", *words, "--templates", "simple"])
        return (status, *capsys.readouterr())

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_three_files_for_an_image(segment, photo, tmp_path, tiny_clip):
    out = tmp_path / "deep" / "out"
    status, stdout, stderr = segment(photo, "--output", out)
    assert (status, stderr) == (0, "")
    assert names(out) == ["photo.json", "photo.labels.png", "photo.overlay.png"]
    expected = ovseg.load(tiny_clip, "cpu")(photo, WORDS, templates="simple")
    with Image.open(out / "photo.labels.png") as image:
        assert image.mode.startswith("I;16") and image.size == (96, 72)
        np.testing.assert_array_equal(np.asarray(image), expected.labels)
    with Image.open(out / "photo.overlay.png") as image:
        assert image.mode == "RGB" and image.width > 96  # the legend stands beside it
    report = json.loads((out / "photo.json").read_text())
    assert [entry["name"] for entry in report["classes"]] == ["cat", "red chair", "window"]
    assert report["classes"][1]["synonyms"] == ["armchair"]
    for index, entry in enumerate(report["classes"]):
        own = expected.labels == index
        assert entry["area_fraction"] == pytest.approx(own.mean())
        assert entry["score"] == (pytest.approx(expected.scores[own].mean(), abs=1e-5) if own.any() else None)
    assert {"model", "weights_hash", "vocabulary_hash", "background", "timings"} <= report["meta"].keys()
    assert "photo.jpg" in stdout and "1 of 1 images segmented" in stdout
    assert all(entry["name"] in stdout for entry in report["classes"] if entry["area"])


def test_no_class_is_65535(segment, photo, tmp_path):
    assert segment(photo, "--output", tmp_path / "out", "--background", "threshold:1")[0] == 0
    assert (np.asarray(Image.open(tmp_path / "out/photo.labels.png")) == 65535).mean() > 0.99
    assert (read_label_png(tmp_path / "out/photo.labels.png") == -1).mean() > 0.99


def test_files_and_folders_each_image_once(segment, photo, photos, tmp_path):
    status, stdout, _ = segment(photo, photos, photos / "a.jpg", photo, "--output", tmp_path / "out")
    assert status == 0 and "4 of 4 images segmented" in stdout
    assert len([path for path in (tmp_path / "out").rglob("*") if path.is_file()]) == 12


def test_images_of_one_name(segment, photos, tmp_path):
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        shutil.copy(photos / "a.jpg", tmp_path / place / "a.jpg")
    shutil.copy(photos / "b.png", tmp_path / "x" / "a.png")
    out = tmp_path / "out"
    segment(tmp_path / "x", tmp_path / "y", "--output", out)
    found = {path.relative_to(out).as_posix(): json.loads(path.read_text()) for path in out.rglob("*.json")}
    reports = {name: report["meta"]["path"] for name, report in found.items()}
    expected = {"x/a.jpg.json": "x/a.jpg", "x/a.png.json": "x/a.png", "y/a.json": "y/a.jpg"}
    assert reports == {name: str(tmp_path / path) for name, path in expected.items()}


def test_json_lines_and_nothing_else(segment, photos, tmp_path):
    (photos / "b.png").write_bytes(b"")
    status, stdout, stderr = segment(photos, "--json", "--output", tmp_path / "out")
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert status == 1 and [line["meta"]["image"] for line in lines] == ["a.jpg", "c.webp"]
    assert lines[0]["labels"] == str(tmp_path / "out/a.labels.png") and lines[0]["width"] == 96
    assert stderr.splitlines() == [line for line in stderr.splitlines() if line.startswith("error: ")]
    report = json.loads((tmp_path / "out/a.json").read_text())
    assert {key: value for key, value in lines[0].items() if key not in ("overlay", "labels", "report")} == report


def test_json_lines_do_not_follow_the_progress_bar_to_the_terminal(segment, photos, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    status, stdout, _ = segment(photos, "--json", "--output", tmp_path / "out")
    assert status == 0 and [json.loads(line)["meta"]["image"] for line in stdout.splitlines()] == names(photos)
    assert "segmenting" in terminal.getvalue() and "weights_hash" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("background", "recorded"),
    [
        ("none", "none"),
        ("threshold:0.4", "threshold:0.4"),
        ("words", "words-v1"),
        ("sky, wall", "words:sky, wall"),
        ("words:sky", "words:sky"),
    ],
)
def test_background(segment, photo, tmp_path, background, recorded):
    assert segment(photo, "--output", tmp_path, "--background", background)[0] == 0
    assert json.loads((tmp_path / "photo.json").read_text())["meta"]["background"] == recorded


def test_ways_to_give_classes(segment, photo, tmp_path):
    (tmp_path / "words.txt").write_text("cat|kitten\nsofa\n", encoding="utf-8")
    (tmp_path / "words.json").write_text('["cat", {"name": "sofa", "synonyms": ["couch"]}]', encoding="utf-8")
    for given, expected in (
        ("voc20", 20),
        (str(tmp_path / "words.txt"), 2),
        (str(tmp_path / "words.json"), 2),
        ("😀, قطة, חתול, 猫", 4),
        ("[/b], :cat:, [red]", 3),
        ("cat", 1),
    ):
        status, stdout, stderr = segment(photo, "--output", tmp_path / "out", classes=given)
        assert status == 0
        report = json.loads((tmp_path / "out/photo.json").read_text(encoding="utf-8"))
        assert len(report["classes"]) == expected
        assert all(entry["name"] in stdout for entry in report["classes"][:6] if entry["area"] > 50)
    assert "note: a single class has nothing to differ from" in stderr


def test_model_options(segment, photo, tmp_path, tiny_clip):
    status, *_ = segment(photo, "--output", tmp_path, "--dtype", "bf16", "--batch-size", 3, model=f"sclip/{tiny_clip}")
    meta = json.loads((tmp_path / "photo.json").read_text())["meta"]
    assert status == 0 and meta["dtype"] == "bfloat16" and meta["settings"]["recalibration"] == "SCLIP"


def test_the_config_is_built_once(photo, tmp_path, tiny_clip, monkeypatch):
    from ovseg.zoo import spec

    configs, real = [], spec.load_config
    monkeypatch.setattr(spec, "load_config", lambda *given: configs.append(given) or real(*given))
    own = tmp_path / "own.yaml"
    own.write_text(f"MODEL: {{CLIP: {{FOLDER: {tiny_clip}}}, TEXT: {{VOCABULARY: 'cat, dog'}}}}")
    arguments = [photo, "--model", own, "--templates", "vild14", "--autoclip", "--device", "cpu", "--output", tmp_path]
    assert main(["segment", *map(str, arguments)]) == 0
    meta = json.loads((tmp_path / "photo.json").read_text())["meta"]
    assert len(configs) == 1 and meta["model"] == str(own) and meta["settings"]["text"]["autoclip"] == 0.85


def test_formats_that_a_model_has_nothing_for_are_refused_before_words_are_embedded(
    segment, photo, tmp_path, monkeypatch
):
    monkeypatch.setattr("ovseg.segmenter.Segmenter.words", lambda *_: pytest.fail("words were embedded"))
    status, _, stderr = segment(photo, "--output", tmp_path / "out", "--formats", "coco-instance")
    assert status == 2 and "gives no instances" in stderr and stderr.count("\n") == 1


def test_nothing_is_compiled_without_a_compiler(segment, photo, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    status, _, stderr = segment(photo, "--output", tmp_path / "out", "--compile")
    assert status == 2 and stderr.startswith("error: there is no C++ compiler") and stderr.count("\n") == 1


def test_a_second_run_into_the_folder_of_the_images(segment, photos):
    for _ in range(2):
        status, stdout, stderr = segment(photos, "--output", photos)
        assert status == 0 and "3 of 3 images segmented" in stdout
        assert len(names(photos)) == 12
    assert stderr == "note: 6 results of earlier runs are left out; name a file itself to segment it\n"
    status, stdout, _ = segment(photos / "a.overlay.png", "--output", photos)
    assert status == 0 and (photos / "a.overlay.json").exists()


def test_results_are_replaced_but_nothing_else(segment, photo, tmp_path):
    out = tmp_path / "out"
    segment(photo, "--output", out)
    before = json.loads((out / "photo.json").read_text())
    assert segment(photo, "--output", out, classes="sky, grass")[0] == 0
    assert json.loads((out / "photo.json").read_text())["classes"] != before["classes"]
    annotation = b'{"shapes": []}'
    (out / "photo.json").write_bytes(annotation)
    status, _, stderr = segment(photo, "--output", out)
    assert status == 2 and stderr.startswith(f"error: '{out}/photo.json' is no result of ovseg")
    assert (out / "photo.json").read_bytes() == annotation
    shutil.copy(photo, out / "photo.overlay.png")
    (out / "photo.json").unlink()
    status, _, stderr = segment(photo, out / "photo.overlay.png", "--output", out)
    assert status == 1 and "is an input and would be overwritten" in stderr and stderr.count("\n") == 1
    assert (out / "out/photo.overlay.json").exists() and not (out / "photo.json").exists()  # the other was done


def test_interrupted(segment, photos, tmp_path, monkeypatch):
    from ovseg.segmenter import Segmenter

    real, calls = Segmenter._encode, []

    def interrupted(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(Segmenter, "_encode", interrupted)
    status, _, stderr = segment(photos, "--output", tmp_path / "out")
    assert status == 130 and stderr.startswith("interrupted")
    assert names(tmp_path / "out") == ["a.json", "a.labels.png", "a.overlay.png"]


def test_a_full_disk(segment, photo, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    status, _, stderr = segment(photo, "--output", tmp_path / "out")
    assert status == 1 and stderr.count("\n") == 1 and "No space left on device" in stderr
    assert names(tmp_path / "out") == []


def test_killed_in_the_middle(tiny_clip, pixels, tmp_path):
    """What stands under a final name is complete, however the process ends; the next run does the rest."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for index in range(60):
        Image.fromarray(np.roll(pixels, index, 1)).resize((400, 300)).save(photos / f"{index:02d}.jpg")
    command = [sys.executable, "-m", "ovseg.cli", "segment", photos, "--classes", WORDS, "--output", out]
    command += ["--model", tiny_clip, "--templates", "simple", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while len(list(out.glob("[!.]*.json"))) < 4 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    reports = list(out.glob("[!.]*.json"))
    assert 4 <= len(reports) < 60, process.returncode
    for path in out.glob("[!.]*"):
        if path.suffix == ".json":
            assert json.loads(path.read_text())["width"] == 400
        else:
            with Image.open(path) as image:
                image.load()
    for path in reports:  # written last, so its pictures are there
        assert (out / f"{path.stem}.labels.png").exists() and (out / f"{path.stem}.overlay.png").exists()
