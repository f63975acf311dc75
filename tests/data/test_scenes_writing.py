"""The Scenes that `ovseg datasets scenes` writes are complete COCO-panoptic data, and the same every time."""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.cli import datasets as datasets_command
from ovseg.cli import main
from ovseg.data.scenes import bank as bank_module
from ovseg.data.scenes.bank import Bank
from ovseg.data.scenes.textures import STUFF
from ovseg.data.scenes.writing import annotate, concept_pool
from ovseg.errors import EnvironmentProblem
from ovseg.system.files import file_hash
from ovseg.vocabulary import Vocabulary

VOID = 65535


def make(*arguments: str) -> int:
    return main(["datasets", "scenes", *arguments])


@pytest.fixture(scope="module")
def stamps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographic cut-outs as Debian's package has them: a PNG and a description each, one without, one of nothing."""
    folder = tmp_path_factory.mktemp("stamps")
    (folder / "animals").mkdir()
    for name, text in {"a": "A green frog.\nes.utf8=Una rana.", "b": "A mug!", "c": "A teapot.", "d": None}.items():
        image = Image.new("RGBA", (30, 20))
        image.paste((90, 160, 40, 255), (5, 5, 25, 15))
        image.save(folder / f"animals/{name}.png")
        if text is not None:
            (folder / f"animals/{name}.txt").write_text(text)
    return folder


def prepared(folder: Path, bank: Bank) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    bank.save(folder / "bank.safetensors")
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory, tiny_bank: Bank, stamps: Path) -> Path:
    root = prepared(tmp_path_factory.mktemp("data") / "scenes", tiny_bank)
    arguments = ["--output", str(root), "--count", "6", "--size", "72", "--stamps", str(stamps)]
    assert make(*arguments) == 0
    return root


def read_split(root: Path, split: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / split / "panoptic.json").read_text())
    return found


def panoptic_ids(path: Path) -> np.ndarray:
    rgb = np.asarray(Image.open(path)).astype(int)
    return rgb @ [1, 256, 65536]


@pytest.mark.parametrize("split", ["train", "val", "novel", "photo"])
def test_files_and_annotations_agree(scenes: Path, split: str) -> None:
    info = read_split(scenes, split)
    categories = {category["id"]: category for category in info["categories"]}
    files = sorted(p.relative_to(scenes / split).as_posix() for p in (scenes / split).rglob("*") if p.is_file())
    stems = [f"{split}_{index:05d}" for index in range(6)]
    expected = [f"{kind}/{s}.{end}" for kind, end in FILES.items() for s in stems] + ["panoptic.json"]
    assert files == sorted(expected)
    assert [image["id"] for image in info["images"]] == [a["image_id"] for a in info["annotations"]] == list(range(6))
    for image, annotation in zip(info["images"], info["annotations"], strict=True):
        opened = Image.open(scenes / split / "images" / image["file_name"])
        assert opened.size == (image["width"], image["height"]) == (72, 72) and opened.mode == "RGB"
        panoptic = panoptic_ids(scenes / split / "panoptic" / annotation["file_name"])
        with Image.open(scenes / split / "semantic" / annotation["file_name"]) as png:
            assert png.mode.startswith("I;16")
            semantic = np.asarray(png).astype(int)
        check_segments(annotation["segments_info"], panoptic, semantic, categories)


FILES = {"images": "jpg", "panoptic": "png", "semantic": "png"}


def check_segments(
    segments: list[dict[str, Any]], panoptic: np.ndarray, semantic: np.ndarray, categories: dict[int, Any]
) -> None:
    assert panoptic.shape == semantic.shape == (72, 72)
    assert {segment["id"] for segment in segments} == set(np.unique(panoptic)) - {0}
    assert np.array_equal(panoptic == 0, semantic == VOID)
    assert any(categories[segment["category_id"]]["isthing"] for segment in segments)
    for segment in segments:
        mask = panoptic == segment["id"]
        ys, xs = mask.nonzero()
        left, top, width, height = segment["bbox"]
        assert (left, top, left + width - 1, top + height - 1) == (xs.min(), ys.min(), xs.max(), ys.max())
        assert segment["area"] == mask.sum() > 0 and segment["iscrowd"] == 0
        assert set(semantic[mask]) == {segment["category_id"] - 1}


def test_segments_decode_with_pycocotools(scenes: Path) -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    annotation = read_split(scenes, "val")["annotations"][0]
    panoptic = panoptic_ids(scenes / "val/panoptic" / annotation["file_name"])
    for segment in annotation["segments_info"]:
        encoded = mask_api.encode(np.asfortranarray(panoptic == segment["id"], dtype=np.uint8))
        assert mask_api.area(encoded) == segment["area"]
        assert mask_api.toBbox(encoded).tolist() == segment["bbox"]


def test_categories_are_complete(scenes: Path, tiny_bank: Bank) -> None:
    categories = read_split(scenes, "val")["categories"]
    assert all(read_split(scenes, split)["categories"] == categories for split in ("train", "novel", "photo"))
    assert [c["id"] for c in categories] == list(range(1, len(categories) + 1))
    assert [c["name"] for c in categories] == [c.name for c in tiny_bank.concepts] + list(STUFF)
    assert [c["isthing"] for c in categories] == [1] * 7 + [0] * len(STUFF)
    assert {c["name"] for c in categories if c["split"] == "novel"} == {"cup", "leaf"}
    by_name = {c["name"]: c for c in categories}
    assert by_name["lemon"]["synonyms"] == ["citrus", "sour fruit"] and by_name["sand"]["synonyms"] == ["beach"]
    assert Vocabulary.parse([[c["name"], *c["synonyms"]] for c in categories]).names == list(by_name)


def things(root: Path, split: str) -> set[str]:
    info = read_split(root, split)
    names = {c["id"]: c["name"] for c in info["categories"] if c["isthing"]}
    segments = (s for a in info["annotations"] for s in a["segments_info"])
    return {names[s["category_id"]] for s in segments if s["category_id"] in names}


def test_splits_show_their_concepts_only(scenes: Path, tiny_bank: Bank) -> None:
    base = {"flamingo", "frog", "lemon", "tomato", "whale"}
    assert things(scenes, "train") <= base and things(scenes, "val") <= base and len(things(scenes, "train")) >= 4
    assert things(scenes, "novel") == {"cup", "leaf"}
    assert things(scenes, "photo") == {"frog", "cup"}  # novel or not, but only what a stamp shows
    pools = {split: concept_pool(tiny_bank, split).tolist() for split in ("train", "val", "novel")}
    assert pools == {"train": [0, 1, 2, 3, 4], "val": [0, 1, 2, 3, 4], "novel": [5, 6]}


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_rerun_is_bit_identical_and_a_seed_is_not(
    scenes: Path, tiny_bank: Bank, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = prepared(tmp_path / "again", tiny_bank)
    arguments = ["--output", str(root), "--count", "2", "--size", "72", "--splits", "val, train"]
    assert make(*arguments) == 0
    assert "val: 2 scenes of 72 x 72 pixels" in capsys.readouterr().out
    first = contents(root)
    assert make(*arguments) == 0
    assert contents(root) == first
    for name in ("val/images/val_00001.jpg", "train/panoptic/train_00000.png"):  # whatever else was made beside it
        assert first[name] == (scenes / name).read_bytes()
    assert first["val/images/val_00000.jpg"] != first["train/images/train_00000.jpg"]
    assert make(*[*arguments, "--seed", "1"]) == 0
    assert contents(root)["val/images/val_00000.jpg"] != first["val/images/val_00000.jpg"]


def test_only_bank_writes_no_scenes(tiny_bank: Bank, tmp_path: Path) -> None:
    root = prepared(tmp_path, tiny_bank)
    assert make(*["--output", str(root), "--only-bank"]) == 0
    assert [path.name for path in root.iterdir()] == ["bank.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--splits", "val,test"], r"unknown split 'test'"),
        (["--splits", ""], r"unknown split ''"),
        (["--size", "16"], r"--size 16 .* at least 32"),
        (["--count", "0"], r"--count 0.* positive count"),
        (["--splits", "val,photo", "--stamps", "nowhere", "--count", "1"], r"no stamp under 'nowhere'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, tiny_bank: Bank, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = prepared(tmp_path, tiny_bank)
    assert make(*["--output", str(root), *arguments]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert [path.name for path in root.iterdir()] == ["bank.safetensors"]  # found out before anything was made


@pytest.mark.parametrize(("prefix", "tool"), [((), "npm"), (("--splits", "photo"), "apt-get")])
def test_missing_tools_are_one_line(
    prefix: tuple[str, ...],
    tool: str,
    tiny_bank: Bank,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    root = prepared(tmp_path, tiny_bank) if tool == "apt-get" else tmp_path
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert make(*["--output", str(root), *prefix]) == 2
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and tool in error
    assert (root / "bank.safetensors").exists() == (tool == "apt-get")
    assert not list(root.rglob("*.json"))


def test_a_corrupt_bank_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bank.safetensors").write_bytes(b"half a download")
    assert make(*["--output", str(tmp_path)]) == 2
    assert "is no bank of Scenes" in capfd.readouterr().err


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for npm that packs `archive.tgz`, which holds two files."""
    (tmp_path / "source/package").mkdir(parents=True)
    for name in ("a.bin", "b.bin"):
        (tmp_path / "source/package" / name).write_bytes(os.urandom(200_000))
    archive = tmp_path / "archive.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "source/package", "package")
    script = tmp_path / "bin/npm"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\ncp {archive} "$5/p.tgz"\necho p.tgz\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    return archive


def pin(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "NPM_PACKAGES", {"@some/package": ("1.0", file_hash(archive))})


def test_an_archive_cut_off_while_unpacking_is_unpacked_again(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = npm.read_bytes()
    npm.write_bytes(whole[:250_000])
    pin(npm, monkeypatch)  # so that it is the unpacking that breaks off
    with pytest.raises(EnvironmentProblem, match="check the network"):
        bank_module.fetch_packages(tmp_path / "cache")
    npm.write_bytes(whole)
    pin(npm, monkeypatch)
    folder = bank_module.fetch_packages(tmp_path / "cache")["@some/package"]
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "b.bin"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["some-package"]


def test_another_archive_than_the_pinned_one_is_refused(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(npm, monkeypatch)
    npm.write_bytes(npm.read_bytes()[:-1])
    with pytest.raises(EnvironmentProblem, match=r"p\.tgz has sha256 [0-9a-f]{64}, expected [0-9a-f]{64}; check which"):
        bank_module.fetch_packages(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_without_scikit_image_nothing_is_fetched(
    npm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert make("--output", str(tmp_path / "out"), "--only-bank") == 2
    assert "pip install 'ovseg[train]'" in capfd.readouterr().err
    assert not (tmp_path / "out/downloads").exists()


def test_the_command_says_what_it_does_by_default() -> None:
    from ovseg.cli import build_parser
    from ovseg.data.scenes.writing import COUNTS

    args = build_parser().parse_args(["datasets", "scenes"])
    assert args.splits.split(",") == list(COUNTS)
    help_text = (Path(datasets_command.__file__)).read_text()
    assert ", ".join(f"{count} {split}" for split, count in COUNTS.items()) in help_text


def test_annotate_a_scene_without_anything_but_a_photograph(tiny_bank: Bank) -> None:
    from ovseg.data.scenes.composer import SceneBatch

    empty = torch.full((1, 4, 4), -1)
    scene = SceneBatch(torch.zeros(1, 3, 4, 4), torch.zeros_like(empty), empty, torch.tensor([[-1]]), torch.zeros(1, 1))
    panoptic, semantic, segments = annotate(scene, len(tiny_bank.concepts))
    assert (panoptic == 0).all() and (semantic == VOID).all() and segments == []
