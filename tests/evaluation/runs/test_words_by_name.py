"""Words of an evaluation meet the classes of the data by name: their order changes no number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovseg.cli import main
from ovseg.errors import UnknownNameError
from ovseg.evaluation.runs.plan import Plan
from ovseg.vocabulary import Vocabulary
from tests.evaluation.runs.test_run import CLASSES, write_data


@pytest.fixture
def evaluate(tmp_path: Path, tiny_clip: Path) -> Any:
    data = write_data(tmp_path / "data")

    def evaluate(name: str, *words: str) -> dict[str, Any]:
        run = ["eval", "--model", str(tiny_clip), "--dataset", str(data), "--output", str(tmp_path / name)]
        assert main([*run, *words]) == 0
        found: dict[str, Any] = json.loads((tmp_path / name / "result.json").read_text())
        found["rows"] = sorted((tmp_path / name / "per_class.csv").read_text().splitlines()[1:])
        return found

    return evaluate


def test_the_order_of_words_changes_no_number(evaluate: Any) -> None:
    plain = evaluate("plain")
    for name, order in (("turned", (3, 2, 1, 0)), ("mixed", (2, 0, 3, 1))):
        found = evaluate(name, "--vocabulary", ", ".join(CLASSES[i] for i in order))
        assert found["metrics"]["semantic"] == plain["metrics"]["semantic"]
        by_name = [[line.partition(",")[2] for line in one["rows"]] for one in (found, plain)]
        assert sorted(by_name[0]) == sorted(by_name[1])
        assert not [line for line in found["notes"] if line not in plain["notes"]]


def test_what_is_renamed_and_dropped_is_in_the_report(evaluate: Any) -> None:
    found = evaluate("some", "--rename", "cat=tabby, sofa=couch", "--vocabulary", "seat|couch, tabby, moon")
    for line in (
        "renamed 2 of 4 classes of the data: cat to tabby, sofa to couch",
        "1 class matched by a synonym: couch as seat",
        "dropped 2 of 4 classes of the data (wall, lamp): their pixels are void",
        "1 word (moon) has no labels and can only be wrong",
    ):
        assert line in found["notes"], line


def test_a_rename_of_no_class_is_one_line(tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data")
    run = ["eval", "--model", str(tiny_clip), "--dataset", str(data), "--output", str(tmp_path / "run")]
    assert main([*run, "--rename", "lmap=light"]) == 2
    err = capsys.readouterr().err
    assert "to rename 'lmap'; did you mean lamp" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_novel_classes_are_known_by_any_of_their_names() -> None:
    classes = Vocabulary.parse("traffic_light|signal, cat|kitten, sky")
    assert Plan("d", novel="Kitten, traffic light").novel_flags(classes) == [True, True, False]
    with pytest.raises(UnknownNameError, match=r"unknown novel class .of 3 classes. 'skies'; did you mean sky"):
        Plan("d", novel="cat, skies").novel_flags(classes)
