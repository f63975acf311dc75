"""tools/evaluate.py on a miniature Scenes: what it counts, what it writes, what it refuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from ovseg.contract import WANTS, Words
from ovseg.data.images import LoadedImage
from ovseg.data.scenes.bank import Bank
from ovseg.data.scenes.writing import write_split
from ovseg.errors import OvsegError
from ovseg.evaluation.runs.plan import Plan
from ovseg.evaluation.runs.worker import Worker
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.result.objects import Instance, Panoptic, PanopticSegment
from ovseg.segmenter import Segmenter
from ovseg.vocabulary import Vocabulary
from ovseg.zoo import list_models

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
    for split in ("val", "novel"):
        write_split(tiny_bank, split, 3, 64, 0, root)
    return root


def test_full_vocabulary_and_table(script: ModuleType, scenes: Path, tiny_clip: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(scenes), "--splits", "val,novel", "--models", f"{tiny_clip},sclip/{tiny_clip}"]
    arguments += ["--json", str(tmp_path / "a.json"), "--markdown", str(tmp_path / "a.md")]
    assert script.main([*arguments, "--plot", str(tmp_path / "a.png")]) == 0
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
    script: ModuleType, scenes: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With distractors labels count in each image's own list; a model that is always right must still score 1."""
    split = Plan(str(scenes / "val")).open_dataset()
    records = {Path(record["file_name"]).name: record for record in split.records}

    class Right:
        """A result that is right, of objects in random-looking order."""

        meta: ClassVar[dict[str, object]] = {}

        def __init__(self, vocabulary: Vocabulary, image: Path) -> None:
            truth = split.read_segments(records[image.name], (64, 64))
            place = {entry.name: i for i, entry in enumerate(vocabulary)}
            own = np.array([place[split.classes[c].name] for c in truth.classes])
            self.labels = np.append(own, 0)[truth.ids]
            self.scores = np.ones(truth.ids.shape, np.float32)
            ids, order = (truth.ids + 1).astype(np.int32), range(len(own))
            self.classes = vocabulary
            segments = tuple(
                PanopticSegment(i + 1, int(own[i]), split.classes[truth.classes[i]].is_thing, 1.0) for i in order
            )
            self.panoptic = Panoptic(ids, segments)
            masks = [(truth.ids == i, int(own[i])) for i in order if segments[i].is_thing]
            self.instances = tuple(Instance.from_mask(mask, place, 1.0) for mask, place in masks)

    class Encoded:
        """An image that knows all answers."""

        def __init__(self, image: LoadedImage) -> None:
            self.path = image.path

        def answer(self, words: Words, want: frozenset[str]) -> Right:
            assert want >= {"panoptic", "instances"}
            return Right(words.vocabulary, self.path)

    monkeypatch.setattr(WordedModel, "gives", frozenset(WANTS))
    monkeypatch.setattr(Segmenter, "encode", lambda self, image: Encoded(image))
    for distractors in ([], ["--distractors", "2"]):
        arguments = ["--data", str(scenes), "--splits", "val", "--models", str(tiny_clip), *distractors]
        script.main([*arguments, "--json", str(tmp_path / "a.json")])
        (row,) = json.loads((tmp_path / "a.json").read_text())
        assert (row["miou_present"], row["pq"], row["ap"], row["things_per_image"]) == (1, 1, 1, 1)


def test_distractors_are_drawn_by_the_place_of_an_image() -> None:
    """The draw that the numbers of docs/mini.md are made with."""
    plan, own = Plan("any", distractors=3), np.array([2, 5])
    ids = plan.class_ids(4, own, 20)
    others = np.random.default_rng([4, 3]).permutation(np.setdiff1d(np.arange(20), own))[:3]
    assert ids.tolist() == [2, 5, *others] and (ids == plan.class_ids(4, own, 20)).all()
    assert (ids != dataclasses.replace(plan, seed=1).class_ids(4, own, 20)).any()
    assert Plan("any").class_ids(4, own, 20).tolist() == list(range(20))


def test_kept_runs_are_compared_and_go_into_a_page(
    script: ModuleType, scenes: Path, tiny_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text("# Title\n\n<!-- begin: scenes -->\nold\n<!-- end: scenes -->\nrest\n")
    arguments = ["--data", str(scenes), "--splits", "val", "--models", f"{tiny_clip},sclip/{tiny_clip}"]
    arguments += ["--distractors", "3", "--limit", "2", "--output", str(tmp_path / "runs"), "--into", str(page)]
    assert script.main(arguments) == 0
    text = page.read_text()
    assert "old" not in text and text.startswith("# Title\n") and text.endswith("<!-- end: scenes -->\nrest\n")
    assert "2 images of each split, each labelled with its own classes and 3 others" in text
    assert f"| sclip/{tiny_clip} |" in text
    assert (tmp_path / "runs/compare-val/compare.html").is_file()
    assert len(list((tmp_path / "runs").glob("*/val/report.html"))) == 2
    monkeypatch.setattr(Worker, "measure", lambda self, index: pytest.fail("all is done"))
    assert script.main(arguments) == 0
    assert page.read_text() == text


def test_all_models_are_every_method_and_what_is_installed(script: ModuleType) -> None:
    names = script.model_names(script.parse_args(["--all"]))
    assert {"clip/mini", "sclip/mini", "mini"} <= set(names) and len(names) == len(set(names)) > 15
    assert "san-vit-b-16" not in names or next(c for c in list_models() if c.name == "san-vit-b-16").installed


@pytest.mark.parametrize("content", ["no marks", "<!-- begin: scenes --><!-- end: scenes -->" * 2])
def test_a_page_without_marks_is_refused(script: ModuleType, tmp_path: Path, content: str) -> None:
    (tmp_path / "a.md").write_text(content)
    with pytest.raises(OvsegError, match="expected them once"):
        script.replace_block(tmp_path / "a.md", "scenes", "table")
    assert (tmp_path / "a.md").read_text() == content


@pytest.mark.parametrize("content", [None, "{", '{"images": []}'])
def test_missing_or_broken_annotations_are_errors(script: ModuleType, tmp_path: Path, content: str | None) -> None:
    (tmp_path / "val").mkdir()
    if content is not None:
        (tmp_path / "val/panoptic.json").write_text(content)
    with pytest.raises(OvsegError, match=r"make it with `ovseg datasets scenes`"):
        script.main(["--data", str(tmp_path), "--splits", "val"])


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
