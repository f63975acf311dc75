"""The embedded model as it is shipped: small enough, and right about most of what the example pictures show."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

import ovseg
from ovseg.vocabulary import Vocabulary

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def examples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_examples", ROOT / "datasets/make_examples.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_assets_stay_small() -> None:
    files = [path for path in (ROOT / "ovseg/assets/mini").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40e6
    assert {"open_clip_config.json", "open_clip_model.safetensors", "README.md"} <= {path.name for path in files}


def test_words_of_the_demo_are_those_of_the_script(examples: ModuleType) -> None:
    words = json.loads((ROOT / "examples/examples.json").read_text())
    assert words == {f"{name}.jpg": scene["words"] for name, scene in examples.SCENES.items()}


def test_most_objects_of_the_examples_are_labelled_right(examples: ModuleType) -> None:
    segmenter = ovseg.load("mini", device="cpu")
    right, total = 0, 0
    for name, scene in examples.SCENES.items():
        result = segmenter(ROOT / f"examples/{name}.jpg", scene["words"])
        height, width = result.labels.shape
        ids = {query: entry for entry, own in enumerate(Vocabulary.parse(scene["words"])) for query in own.names}
        for concept, x, y, size, _ in scene["objects"]:
            reach = size * width / 6
            top, left = int(y * height - reach), int(x * width - reach)
            patch = result.labels[top : int(top + 2 * reach), left : int(left + 2 * reach)]
            right += (patch == ids[concept]).mean() > 0.5
            total += 1
    assert total >= 12 and right / total >= 0.75, f"{right} of {total} objects"


def test_its_clip_without_the_trained_head(examples: ModuleType) -> None:
    assert ovseg.load("mini", device="cpu").model.settings["architecture"] == "SAN"
    segmenter = ovseg.load("mini-clearclip", device="cpu")
    scene = examples.SCENES["desk"]
    result = segmenter(ROOT / "examples/desk.jpg", scene["words"])
    names = [entry.name for entry in Vocabulary.parse(scene["words"])]
    shares = {names[index]: float((result.labels == index).mean()) for index in range(len(names))}
    assert shares["wooden floor"] > 0.6 and shares["laptop"] > 0.05, shares
