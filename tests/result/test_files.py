"""What results are called, and whose they are: by path, in any order, with a word where another's lie in the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg.cli import main
from ovseg.errors import InputError
from ovseg.result.files import origin, plan_files, write_files
from ovseg.result.segmentation import Segmentation
from ovseg.vocabulary import Vocabulary


@pytest.fixture
def cameras(tmp_path: Path) -> list[Path]:
    """Images of one name in two folders."""
    paths = [tmp_path / camera / "0001.jpg" for camera in ("cam1", "cam2")]
    for value, path in enumerate(paths):
        path.parent.mkdir()
        Image.new("RGB", (8, 6), (60 * value, 0, 0)).save(path)
    return paths


def result_of(path: Path) -> Segmentation:
    pixels = np.asarray(Image.open(path))
    meta = {"image": path.name, "path": str(path)}
    labels = np.zeros((6, 8), np.int32)
    return Segmentation.from_labels(labels, np.ones((6, 8)), Vocabulary.parse("cat, sofa"), pixels, meta)


def test_the_same_inputs_give_the_same_names_in_any_order(cameras: list[Path], tmp_path: Path) -> None:
    places = plan_files(cameras, tmp_path / "out")
    assert plan_files(cameras[::-1], tmp_path / "out") == places
    assert [places[str(path)].name for path in cameras] == ["cam1/0001", "cam2/0001"]
    assert [places[str(path)].image for path in cameras] == ["cam1/0001.jpg", "cam2/0001.jpg"]
    assert plan_files([*cameras, tmp_path / "cam2/0002.jpg"], tmp_path / "out").items() >= places.items()


def test_files_say_which_image_they_are_of(cameras: list[Path], tmp_path: Path) -> None:
    names = ["overlay", "labels", "png", "report"]
    places = plan_files(cameras, tmp_path / "out", names)
    for path in cameras:
        result = result_of(path)
        result.meta["image"] = places[str(path)].image  # as the command line does
        files = {name: str(one.path) for name, one in write_files(result, places[str(path)], names).items()}
        assert files["labels"] == str(tmp_path / f"out/{path.parent.name}/0001.labels.png")
        assert {origin(Path(files[name])) for name in names[:4]} == {str(path)}
        name = f"{path.parent.name}/0001.jpg"
        assert json.loads(Path(files["report"]).read_text())["input"]["name"] == name
    hashes = [json.loads((tmp_path / f"out/cam{i}/0001.json").read_text())["input"]["pixels"] for i in (1, 2)]
    assert hashes[0] != hashes[1]


def test_results_of_another_image_are_named(cameras: list[Path], tmp_path: Path) -> None:
    first, second = cameras
    for names in (["labels", "report"], ["labels"]):
        place = plan_files([first], tmp_path / "out", names)[str(first)]
        write_files(result_of(first), place, names)
    notes: list[tuple[Path, str]] = []
    plan_files([first], tmp_path / "out", ["labels"], on_note=lambda path, note: notes.append((path, note)))
    assert notes == []
    plan_files([second], tmp_path / "out", ["labels"], on_note=lambda path, note: notes.append((path, note)))
    (path, replaced), (_, stays) = notes
    assert path == second and "0001.labels.png' of another image" in replaced and replaced.endswith("is replaced")
    assert str(first) in replaced and "0001.json' of another image" in stays and "choose another --output" in stays


def test_two_results_are_never_one_file(tmp_path: Path) -> None:
    images = [tmp_path / "a.jpg", tmp_path / "coco-semantic.jpg"]
    assert plan_files(images, tmp_path / "out", ["report"])
    with pytest.raises(InputError, match=r"'coco-semantic.jpg' and all images would both be written to '.*json"):
        plan_files(images, tmp_path / "out", ["coco-semantic", "report"])


def test_the_command_line(
    cameras: list[Path], tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def segment(*images: Path) -> str:
        words = ["--classes", "cat, sofa", "--model", str(tiny_clip), "--device", "cpu", "--formats", "labels,report"]
        assert main(["segment", *map(str, images), *words, "--output", str(tmp_path / "out")]) == 0
        return "".join(capsys.readouterr())

    segment(*cameras)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in before) == [
        "cam1/0001.labels.png",
        "cam2/0001.labels.png",
    ]
    segment(*cameras[::-1])
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")} == before
    segment(tmp_path / "cam1")
    assert (tmp_path / "out/0001.labels.png").is_file()  # a folder alone is the root of its images
    said = segment(tmp_path / "cam2")
    assert "of another image" in said and "is replaced" in said
    notes = json.loads((tmp_path / "out/0001.json").read_text())["meta"]["notes"]
    assert any("is replaced" in note for note in notes)
