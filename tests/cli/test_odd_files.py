"""File names, folders and disks that cost one image, not the run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.result.files import NAME_BYTES, plan_files, short_name


@pytest.fixture
def segment(tiny_clip, capsys, tmp_path):
    """Run ``ovseg segment`` in this process; returns exit code, stdout and stderr."""

    def run(*arguments):
        words = [*map(str, arguments), "--classes", "cat, sofa", "--model", str(tiny_clip), "--device", "cpu"]
        status = main(["segment", *words, "--templates", "simple", "--output", str(tmp_path / "out")])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_name_that_is_not_utf8(segment, photo, photos, tmp_path):
    odd = os.fsdecode(os.fsencode(photos) + b"/caf\xe9.jpg")
    try:
        shutil.copy(photo, odd)
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    status, out, err = segment(
        photos, "--formats", "overlay,labels,report,npz,coco-semantic,cvat,yolo-seg,labelme,label-studio,dataset"
    )
    assert (status, err) == (0, "") and "4 of 4 images segmented" in out
    base = os.fsdecode(os.fsencode(tmp_path / "out") + b"/caf\xe9")
    report = json.loads(Path(f"{base}.json").read_text(encoding="utf-8"))
    assert report["meta"]["path"] == odd and Path(f"{base}.overlay.png").exists()
    (task,) = (one for one in json.loads((tmp_path / "out/label-studio/tasks.json").read_bytes()) if "%E9" in str(one))
    image = unquote_to_bytes(task["data"]["image"].partition("?d=")[2])
    assert Path(os.fsdecode(os.fsencode(tmp_path / "out/label-studio") + b"/" + image)).is_file()
    status, out, err = segment(odd, "--json")
    assert status == 0 and json.loads(out)["meta"]["path"] == odd
    status, _, err = segment(photos, "--formats", "voc")
    assert (status, err.count("\n")) == (1, 1) and "a line of VOC's list of images cannot hold this name" in err
    Path(odd).write_bytes(b"no picture")
    status, out, err = segment(photos)
    assert status == 1 and err.count("\n") == 1 and "caf\\udce9.jpg" in err


@pytest.mark.parametrize("length", [240, 248, 255])
def test_names_that_leave_no_room_for_an_ending(segment, photos, tmp_path, length):
    long = photos / f"{'x' * (length - 4)}.jpg"
    shutil.copy(photos / "a.jpg", long)
    other = photos / f"{'x' * (length - 5)}y.jpg"
    shutil.copy(photos / "a.jpg", other)
    status, out, err = segment(photos)
    assert (status, err) == (0, "") and "5 of 5 images segmented" in out
    assert len(names(tmp_path / "out")) == 15
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("xxx*.json")]
    assert {report["meta"]["image"] for report in reports} == {long.name, other.name}
    if length > 244:  # .overlay.png has 12 bytes
        assert all("too long for results" in report["meta"]["notes"][0] for report in reports)
        assert "too long for results" in out


def test_short_names_are_stable_and_different():
    assert short_name("cam1/a", 20) == "cam1/a"
    first, second = ("ä" * 200 + end for end in "xy")
    assert short_name(first, 100) == short_name(first, 100) != short_name(second, 100)
    assert len(os.fsencode(short_name(f"cam/{first}", 99))) <= 99 + 4
    assert short_name(f"cam/{first}", 99).startswith("cam/ä")


def test_a_result_that_may_not_be_written_costs_one_image(segment, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.json").write_text("{}")  # not ours
    (tmp_path / "out" / "b.overlay.png").mkdir()
    status, out, err = segment(photos)
    assert status == 1 and err.count("error: ") == err.count("\n") == 2
    assert (
        "a.json' is no result of ovseg" in err and "b.overlay.png' cannot be written: a folder is in its place" in err
    )
    assert "1 of 3 images segmented" in out and (tmp_path / "out" / "c.json").exists()


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), OSError("encoder error -2 when writing")])
def test_a_disk_that_is_full_for_one_image(segment, photos, tmp_path, monkeypatch, raised):
    from ovseg.result.formats.labels import Labels

    real = Labels.write

    def write(self, result, path):
        if result.meta["image"] == "b.png":
            path.write_bytes(b"half")
            raise raised
        real(self, result, path)

    monkeypatch.setattr(Labels, "write", write)
    status, out, err = segment(photos)
    assert (
        status == 1
        and err.count("\n") == 1
        and err.startswith("error: ")
        and "b" in err
        and str(raised.args[-1]) in err
    )
    assert "2 of 3 images segmented" in out
    assert {"a.json", "c.json"} <= set(names(tmp_path / "out")) and "b.json" not in names(tmp_path / "out")
    assert not [name for name in names(tmp_path / "out") if name.startswith(".")]


def test_paths_that_lead_nowhere_cost_nothing_else(segment, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    status, out, err = segment(tmp_path / "none.jpg", photos, tmp_path / "empty", tmp_path / "gone" / "x.png")
    assert status == 1 and err.count("error: ") == err.count("\n") == 3 and "3 of 6 images segmented" in out
    status, out, err = segment(tmp_path / "none.jpg", tmp_path / "empty")
    assert status == 2 and err.count("error: ") == err.count("\n") == 2


def test_a_folder_that_cannot_be_listed(segment, photos, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    real = Path.iterdir

    def refuse(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refuse)
    status, _, err = segment(photos, tmp_path / "closed")
    assert status == 1 and err.count("\n") == 1 and "closed' cannot be read (Permission denied)" in err


def test_an_image_that_vanishes(segment, photos, monkeypatch):
    from ovseg.result import files

    real = files.check_makeable
    monkeypatch.setattr(files, "check_makeable", lambda folder: ((photos / "b.png").unlink(), real(folder))[1])
    status, out, err = segment(photos)
    assert status == 1 and err.count("\n") == 1 and "b.png' not found" in err and "2 of 3 images" in out


def test_what_a_folder_holds_besides_is_counted_and_named(segment, photos, tmp_path):
    for name in ("IMG_1.DNG", "IMG_2.dng", "IMG_3.HEIC", "film.mov", "noname", "notes.txt", ".hidden.dng"):
        (photos / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" if name.endswith("HEIC") else b"II*\0" * 9)
    (photos / "sub").mkdir()
    status, out, err = segment(photos)
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert status == 1
    assert any("2 files are left out (IMG_1.DNG, IMG_2.dng)" in line and "raw file" in line for line in errors)
    assert "2 files are left out (film.mov, noname)" in err and "1 folder is left out (sub)" in err
    assert "notes.txt" not in err and "hidden" not in err
    meta = json.loads((tmp_path / "out" / "a.json").read_text())["meta"]
    assert len(meta["run_notes"]) == len(lines) and any("IMG_1.DNG" in line for line in meta["run_notes"])
    assert "3 of 6 images segmented" in out or "3 of 5 images segmented" in out  # with pillow-heif the HEIC is tried


def test_a_folder_with_nothing_usable_says_what_it_saw(segment, tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.CR2").touch()
    status, _, err = segment(folder)
    assert status == 2 and "a.CR2" in err and "camera's raw" in err and err.count("\n") == 1
    (folder / "a.CR2").rename(folder / "a.docx")
    (folder / "inner").mkdir()
    status, _, err = segment(folder)
    assert status == 2 and "1 .docx" in err and "1 folder" in err


def test_seconds_batch_size_and_notes_are_recorded(segment, photos, tmp_path):
    animation = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    animation[0].save(photos / "d.gif", save_all=True, append_images=animation[1:])
    status, out, err = segment(photos, "--json", "--batch-size", 2)
    assert (status, err) == (0, "")
    for line in map(json.loads, out.splitlines()):
        meta, timings = line["meta"], line["meta"]["timings"]
        assert meta["batch_size"] == 2 and len(meta["notes"]) == (meta["image"] == "d.gif")
        parts = sum(timings[part] for part in ("read", "preprocess", "model", "write"))
        assert timings["seconds"] == pytest.approx(parts, abs=5e-4) and timings["write"] > 0 and timings["read"] > 0
        assert json.loads((tmp_path / "out" / f"{Path(meta['image']).stem}.json").read_text())["meta"] == meta


def test_quiet_and_strict(segment, photos, tmp_path):
    assert segment(photos, "--quiet") == (0, "", "")
    assert segment(photos, "--strict")[0] == 0
    animation = [Image.new("RGB", (16, 12), color) for color in ("red", "blue")]
    animation[0].save(photos / "d.gif", save_all=True, append_images=animation[1:])
    assert segment(photos, "--quiet") == (0, "", "")
    status, out, err = segment(photos)
    assert status == 0 and ", 1 note; results in" in out
    status, out, err = segment(photos, "--quiet", "--strict")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "2 frames" in err and "--strict" in err
    assert (tmp_path / "out" / "d.json").exists()
    (photos / "a.jpg").write_bytes(b"")
    status, out, err = segment(photos, "--quiet")
    assert (status, out) == (1, "") and err.count("\n") == 1 and "a.jpg' is empty" in err


def test_limit_of_pixels_and_bands(segment, photo, tmp_path):
    status, _, err = segment(photo, "--max-pixels", 100)
    assert status == 1 and "--max-pixels 6912" in err
    status, _, err = segment(photo, "--bands", "4,2,1")
    assert status == 1 and "has 3 bands and bands 4,2,1 were asked for; expected numbers from 1 to 3" in err
    status, _, err = segment(photo, "--bands", "red")
    assert status == 2 and "bands are ['red']" in err
    assert segment(photo, "--bands", "3,2,1", "--max-pixels", 6912)[0] == 0


def test_planning_without_handlers_raises(photo, tmp_path):
    from ovseg.errors import InputError

    (tmp_path / "photo.json").write_text("{}")
    with pytest.raises(InputError, match="no result of ovseg"):
        plan_files([photo], tmp_path)
    assert NAME_BYTES == 255


def test_names_are_told_without_what_a_terminal_obeys(segment, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("red\x1b[31m.jpg", "two\nlines.jpg"):
        shutil.copy(photo, folder / name)
    (folder / "bro\x1bken.jpg").write_bytes(b"no picture")
    status, out, err = segment(folder)
    assert status == 1 and "\x1b" not in out + err
    assert "red\\x1b[31m.jpg (" in out and "two\\nlines.jpg (" in out and "bro\\x1bken.jpg" in err


def test_what_in_a_folder_is_no_file_is_named(segment, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(photo, folder / "a.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    status, out, err = segment(folder)
    assert status == 1 and "1 of 4 images segmented" in out
    for name in ("nowhere.jpg", "loop.jpg", "pipe.jpg"):
        assert len([line for line in err.splitlines() if name in line]) == 1, err


def test_notes_on_words_are_told_once(segment, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(photo, folder / name)
    status, out, err = segment(folder, "--background", "wet_road,")
    assert status == 0 and "2 of 2 images segmented" in out and "1 note;" in out
    assert err.count("underscores are shown") == 1 and "underscores" not in out
    for name in ("a", "b"):
        report = json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))
        assert any("underscores" in note for note in report["meta"]["notes"])
