"""tools/evaluate.py on a miniature Scenes: what it counts, what it writes, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ovseg.data.scenes.bank import Bank
from ovseg.errors import OvsegError
from ovseg.panoptic import Instance, Panoptic, PanopticSegment

ROOT = Path(__file__).parents[2]


def load_script(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("tools/evaluate.py")


@pytest.fixture(scope="module")
def scenes(tiny_bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    prepare = load_script("datasets/prepare_scenes.py")
    for split in ("val", "novel"):
        prepare.write_split(tiny_bank, split, 3, 64, 0, root)
    return root


def test_full_vocabulary_and_table(script: ModuleType, scenes: Path, tiny_clip: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(scenes), "--splits", "val,novel", "--models", f"{tiny_clip},sclip/{tiny_clip}"]
    arguments += ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    script.main([*arguments, "--plot", str(tmp_path / "a.png")])
    rows = json.loads((tmp_path / "a.json").read_text())
    assert [(row["model"].split("/")[0] == "sclip", row["split"]) for row in rows] == [
        (False, "val"), (False, "novel"), (True, "val"), (True, "novel"),
    ]  # fmt: skip
    assert all(row["images"] == 3 and row["total"] == 7 + 14 and 0 < row["present"] < 21 for row in rows)
    assert all(row["miou_all"] <= row["miou_present"] <= 1 for row in rows)
    lines = (tmp_path / "a.md").read_text().splitlines()
    assert len(lines) == 4 and lines[0] == "| model | val | novel | ms / image |"
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG" and picture.width > 600


def test_perfect_labels_score_one(
    script: ModuleType, scenes: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With distractors labels count in each image's own list; a model that is always right must still score 1."""
    split = script.read_split(scenes / "val", None)
    segmenter = script.load(str(tiny_clip))
    records = {Path(record["file_name"]).name: record for record in split.records}

    class Right:
        def __init__(self, image: Path) -> None:
            truth = split.read_segments(records[image.name], (64, 64))
            place = {entry.name: i for i, entry in enumerate(segmenter.model.vocabulary)}
            own = np.array([place[split.classes[c].name] for c in truth.classes])
            self.labels = np.append(own, 0)[truth.ids]
            ids, order = (truth.ids + 1).astype(np.int32), range(len(own))
            segments = tuple(
                PanopticSegment(i + 1, int(own[i]), split.classes[truth.classes[i]].is_thing, 1.0) for i in order
            )
            self.panoptic = Panoptic(ids, segments)
            masks = [(truth.ids == i, int(own[i])) for i in order if segments[i].is_thing]
            self.instances = tuple(Instance.from_mask(mask, place, 1.0) for mask, place in masks)

    monkeypatch.setattr(segmenter, "stream", lambda images: map(Right, images))
    for distractors in (None, 2):
        found = script.evaluate(segmenter, split, distractors)
        assert (found["miou_present"], found["pq"], found["ap"]) == (1, 1, 1)


def test_distractors_are_the_same_every_time(script: ModuleType, scenes: Path, tiny_clip: Path) -> None:
    split = script.read_split(scenes / "val", 2)
    segmenter = script.load(str(tiny_clip))
    first, second = (script.evaluate(segmenter, split, 3) for _ in range(2))
    assert {**first, "ms_per_image": 0} == {**second, "ms_per_image": 0} and first["images"] == 2


@pytest.mark.parametrize("content", [None, "{", '{"images": []}'])
def test_missing_or_broken_annotations_are_errors(script: ModuleType, tmp_path: Path, content: str | None) -> None:
    (tmp_path / "val").mkdir()
    if content is not None:
        (tmp_path / "val/panoptic.json").write_text(content)
    with pytest.raises(OvsegError, match=r"make it with datasets/prepare_scenes\.py"):
        script.main(["--data", str(tmp_path), "--splits", "val"])


def test_demo_writes_an_overlay_of_every_example(tiny_clip: Path, tmp_path: Path) -> None:
    load_script("tools/demo.py").main(["--model", str(tiny_clip), "--output", str(tmp_path)])
    examples = json.loads((ROOT / "examples/examples.json").read_text())
    assert len(examples) >= 4
    for name in examples:
        stem = Path(name).stem
        assert Image.open(tmp_path / f"{stem}.overlay.png").width >= Image.open(ROOT / "examples" / name).width
        assert json.loads((tmp_path / f"{stem}.json").read_text())["meta"]["model"] == str(tiny_clip)


def test_zero_shot_counts_every_group(
    tiny_bank: Bank, tiny_clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_bank.save(tmp_path / "bank.safetensors")
    tool = load_script("tools/zero_shot.py")
    tool.main(["--bank", str(tmp_path / "bank.safetensors"), "--model", str(tiny_clip), "--count", "110"])
    base, novel = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (base["concepts"], novel["concepts"]) == ("base", "novel")
    for row in (base, novel):
        assert row["scenes"] == 110 and row["names"] == 7 and row["chance"] == pytest.approx(1 / 7, abs=1e-4)
        assert 0 <= row["top1"] <= row["top5"] <= 1
