"""A run as a data set: what is written is read, checked and trained on without renaming."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.data.checking import check_dataset
from ovseg.data.own_data import read_folder
from ovseg.errors import InputError
from ovseg.result.files import check_words, plan_files, write_files
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary

RUN = ["--device", "cpu", "--formats", "png,dataset"]


@pytest.fixture
def folder(tmp_path: Path, pixels: np.ndarray) -> Path:
    """Photographs: two of one stem, one that EXIF turns, one with a suffix that no data set has."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    image = Image.fromarray(pixels)
    for name in ("a.jpg", "a.png", "b.webp"):
        image.save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    image.save(folder / "odd.picture", format="PNG")
    return folder


def test_segment_writes_what_datasets_check_reads(
    folder: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["--classes", "cat|kitten, sofa, tree", "--model", str(tiny_clip), "--output", str(out)]
    assert main(["segment", str(folder), str(folder / "odd.picture"), *words, *RUN]) == 0
    assert main(["datasets", "check", str(out), "--drawing", str(tmp_path / "drawn.png")]) == 0
    assert "problem:" not in "".join(capsys.readouterr())
    images = sorted(path.name for path in (out / "images").iterdir())
    assert images == ["a.jpg.jpg", "a.png.png", "b.webp", "odd.png", "turned.png"]
    assert (out / "images/a.jpg.jpg").read_bytes() == (folder / "a.jpg").read_bytes()
    assert (out / "classes.txt").read_text() == "cat|kitten\nsofa\ntree\n"
    report = check_dataset(read_folder(out))
    assert report.images == 5 and report.problems == [] and report.dataset.classes.names == ["cat", "sofa", "tree"]
    for label in (out / "labels").iterdir():
        found = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)
        assert found.dtype == np.uint8 and {*np.unique(found)} <= {0, 1, 2, 255}
        image = next(path for path in (out / "images").iterdir() if path.stem == label.stem)
        assert Image.open(image).size == found.shape[::-1]  # also by tools that do not heed EXIF
    assert main(["segment", str(folder), *words, *RUN]) == 0  # again, with one less


def test_images_of_one_name_in_folders(folder: Path, tiny_clip: Path, tmp_path: Path) -> None:
    for camera in ("cam1", "cam2"):
        (tmp_path / camera).mkdir()
        Image.open(folder / "a.jpg").save(tmp_path / camera / "a.jpg")
    out = tmp_path / "out"
    words = ["--classes", "cat, sofa", "--model", str(tiny_clip), "--output", str(out), *RUN]
    assert main(["segment", str(tmp_path / "cam1"), str(tmp_path / "cam2"), *words]) == 0
    assert (out / "images/cam1/a.jpg").is_file() and (out / "labels/cam2/a.png").is_file()
    assert main(["datasets", "check", str(out), "--drawing", str(tmp_path / "drawn.png")]) == 0
    report = check_dataset(read_folder(out))
    assert report.images == 2 and report.problems == []


def result_of(path: Path, words: str = "cat, sofa") -> Segmentation:
    pixels = np.asarray(Image.open(path).convert("RGB"))
    labels = np.zeros(pixels.shape[:2], np.int32)
    return Segmentation.from_labels(
        labels, np.ones(labels.shape), Vocabulary.parse(words), pixels, {"image": path.name, "path": str(path)}
    )


def test_the_images_of_a_data_set_can_be_labelled_in_place(pixels: np.ndarray, tmp_path: Path) -> None:
    image = tmp_path / "mine/images/a.png"
    image.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(image)
    before = image.stat().st_mtime_ns
    place = plan_files([image], tmp_path / "mine", ["dataset"])[str(image)]
    write_files(result_of(image), place, ["dataset"])
    assert image.stat().st_mtime_ns == before and check_dataset(read_folder(tmp_path / "mine")).problems == []


def test_nothing_of_others_is_lost(folder: Path, tmp_path: Path) -> None:
    out, source = tmp_path / "out", folder / "b.webp"
    (out / "labels").mkdir(parents=True)
    (out / "images").mkdir()
    Image.new("L", (96, 72)).save(out / "labels/b.png")
    with pytest.raises(InputError, match=r"labels/b.png' is no result of ovseg"):
        plan_files([source], out, ["dataset"])
    (out / "labels/b.png").unlink()
    (out / "images/b.webp").write_bytes(b"another picture")
    with pytest.raises(InputError, match=r"images/b.webp' is no image of an earlier run"):
        plan_files([source], out, ["dataset"])
    (out / "images/b.webp").rename(out / "images/b.tif")
    with pytest.raises(InputError, match=r"images/b.tif' would share its label with 'b.webp'"):
        plan_files([source], out, ["dataset"])
    (out / "images/b.tif").unlink()
    place = plan_files([source], out, ["dataset"])[str(source)]
    write_files(result_of(source), place, ["dataset"])
    check_words(Vocabulary.parse("cat, sofa"), out, ["dataset"])
    with pytest.raises(InputError, match="lists other classes"):
        check_words(Vocabulary.parse("sofa, cat"), out, ["dataset"])
    other = tmp_path / "elsewhere/b.webp"
    other.parent.mkdir()
    Image.new("RGB", (96, 72)).save(other)
    notes: list[str] = []
    plan_files([other], out, ["dataset"], on_note=lambda _, note: notes.append(note))
    assert len(notes) == 1 and str(source) in notes[0] and notes[0].endswith("is replaced")


def test_words_that_no_line_can_carry(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"classes.txt cannot hold these words .*comma"):
        check_words(Vocabulary.parse([["cat, black"], "sofa"]), tmp_path, ["dataset"])
    check_words(Vocabulary.parse(["cat"]), tmp_path, ["dataset"])
    check_words(Vocabulary.parse([f"class {i}" for i in range(300)]), tmp_path, ["dataset"])


def test_many_classes_need_16_bits(folder: Path, tmp_path: Path) -> None:
    source = folder / "b.webp"
    place = plan_files([source], tmp_path / "out", ["dataset"])[str(source)]
    result = result_of(source, ",".join(f"class {i}" for i in range(300)))
    result.labels[0, :5] = [-1, 299, 255, 256, 0]
    write_files(result, place, ["dataset"])
    assert cv2.imread(str(tmp_path / "out/labels/b.png"), cv2.IMREAD_UNCHANGED)[0, :5].tolist() == [
        65535,
        299,
        255,
        256,
        0,
    ]
    report = check_dataset(read_folder(tmp_path / "out"))
    assert report.problems == [] and report.void == 1
