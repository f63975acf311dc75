"""Label maps that other tools read: 16 bits, 8 bits, and with a palette."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.errors import ConfigError, InputError
from ovseg.result.formats import FORMATS
from ovseg.result.formats.png import Png
from ovseg.result.segmentation import Segmentation
from ovseg.system.registry import build
from ovseg.vocabulary import Vocabulary

LABELS = np.array([[-1, 0, 1], [2, 2, -1]], np.int32)


def make(count: int = 3) -> Segmentation:
    words = Vocabulary.parse([f"class {i}" for i in range(count)])
    return Segmentation.from_labels(LABELS, np.ones(LABELS.shape), words, np.zeros((2, 3, 3), np.uint8))


@pytest.mark.parametrize(("options", "dtype", "void"), [({}, np.uint16, 65535), ({"uint8": True}, np.uint8, 255)])
def test_ids_as_every_tool_reads_them(options: dict[str, bool], dtype: type, void: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    build(FORMATS, "png", options).save(make(255), path)
    wanted = np.where(LABELS < 0, void, LABELS)
    for found in (cv2.imread(str(path), cv2.IMREAD_UNCHANGED), np.asarray(Image.open(path))):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, wanted)


def test_a_palette_holds_ids_and_colours(tmp_path: Path) -> None:
    result, path = make(), tmp_path / "a.png"
    Png(palette=True).save(result, path)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), np.where(LABELS < 0, 255, LABELS))
    colors = np.array([*(entry.color for entry in result.classes), (150, 150, 150)], np.uint8)  # the last: no class
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., :3], colors[LABELS][..., ::-1])


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    words = Vocabulary.parse([f"class {i}" for i in range(256)])
    for one in (Png(uint8=True), Png(palette=True)):
        with pytest.raises(InputError, match="got 256 classes; a label PNG of 8 bits counts up to 255: leave --uint8"):
            one.check(words, tmp_path)
        with pytest.raises(InputError, match="got 256 classes"):
            one.save(make(256), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
    Png().check(words, tmp_path)
    with pytest.raises(ConfigError, match="expected one"):
        Png(uint8=True, palette=True)


def test_flags(photo: Path, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["segment", str(photo), "--classes", "cat, sofa", "--device", "cpu", "--output", str(tmp_path / "out")]
    model = ["--model", str(tiny_clip)]
    assert main([*run, *model, "--formats", "png,overlay", "--uint8", "--legend", "all", "--draw-ids"]) == 0
    assert np.asarray(Image.open(tmp_path / "out/photo.ids.png")).dtype == np.uint8
    with Image.open(tmp_path / "out/photo.overlay.png") as picture:
        drawn = np.asarray(picture)
    assert main([*run, *model, "--formats", "overlay"]) == 0
    assert drawn.tobytes() != np.asarray(Image.open(tmp_path / "out/photo.overlay.png")).tobytes()
    capsys.readouterr()
    for flags, message in (
        (["--uint8"], "changes none of the formats"),
        (["--formats", "png", "--draw-ids"], "changes none of the formats"),
        (["--formats", "png", "--palette", "--classes", ",".join(f"c{i}" for i in range(300))], "got 300 classes"),
    ):
        assert main([*run, "--model", "none/here" if flags[0] == "--uint8" else str(tiny_clip), *flags]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"uint8": True}, {"palette": True}])
def test_large_maps_are_the_same_in_strips(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one, result = build(FORMATS, "png", options), make()
    result.meta["path"] = "photo.jpg"
    one.save(result, tmp_path / "whole.png")
    monkeypatch.setattr("ovseg.result.formats.labels.LARGE", 0)
    monkeypatch.setattr("ovseg.result.formats.labels._STRIP", 1)
    one.save(result, tmp_path / "strips.png")
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "strips.png") as strips:
        assert whole.mode == strips.mode and whole.getpalette() == strips.getpalette()
        assert whole.info["Source"] == strips.info["Source"] == str(Path("photo.jpg").absolute())
        np.testing.assert_array_equal(np.asarray(whole), np.asarray(strips))
