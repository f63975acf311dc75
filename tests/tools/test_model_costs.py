"""`tools/benchmark.py model-costs`: which models it measures, and what it keeps of an earlier run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
from benchmarks.model_costs import Cost, keep, measurable

from ovseg.zoo import list_models


def test_models_of_a_config_and_a_clip_are_measured() -> None:
    names = {card.name for card in list_models() if measurable(card)}
    assert {"san-vit-b-16", "fcclip-convnext-l-adapter", "maftp-b", "catseg-l", "sed-b"} <= names
    assert not {"mini", "sam3", "talk2dino-b", "naclip/ARCHITECTURE/TAG"} & names


def test_numbers_of_other_models_stay(tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    keep(path, "first machine", [Cost("a", 1.0, 0.1, 5.0, 7), Cost("b", 2.0, 0.2, 6.0, 8)])
    keep(path, "second machine", [Cost("a", 3.0, 0.3, 9.0, 7)])
    rows = {row["model"]: row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
    assert (rows["a"]["units"], rows["a"]["where"]) == (3.0, "second machine")
    assert (rows["b"]["units"], rows["b"]["where"]) == (2.0, "first machine")
