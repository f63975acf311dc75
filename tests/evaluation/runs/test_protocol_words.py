"""The words of a protocol stand for the classes of a data set where nothing has to be guessed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.data.own_data import read_folder
from ovseg.evaluation.runs.asked import Asked, by_protocol
from ovseg.result.formats.labels import read_label_png
from ovseg.vocabulary import Vocabulary
from ovseg.zoo import resolve

VOC21 = Vocabulary.parse("voc21")


def write_data(folder: Path, classes: list[str]) -> Path:
    rng = np.random.default_rng(1)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    Image.fromarray(rng.integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(folder / "images/0.png")
    labels = rng.integers(0, len(classes), (4, 5), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(labels).save(folder / "labels/0.png")
    (folder / "classes.txt").write_text("\n".join(classes) + "\n")
    return folder


def names_of(asked: Asked, classes: list[str]) -> dict[str, str]:
    """Return the words of each class."""
    pairs = zip(asked.ids.tolist(), asked.vocabulary, strict=True)
    return {classes[place]: "|".join(entry.names) for place, entry in pairs}


def asked_of(folder: Path, classes: list[str], model: str, protocol: str, name: str = "") -> Asked:
    words = Vocabulary.parse(resolve(model, protocol).protocol_words(protocol))
    dataset = read_folder(write_data(folder, classes))
    return by_protocol(dataclasses.replace(dataset, name=name or dataset.name), words, protocol)


def test_a_preset_of_words_by_name(tmp_path: Path) -> None:
    classes = VOC21.names[::-1]
    asked = asked_of(tmp_path / "data", classes, "sclip/mini", "voc21")
    own = {entry.name: "|".join(entry.names) for entry in Vocabulary.parse("voc20")}
    assert names_of(asked, classes) == {**own, "background": "background"}
    assert asked.vocabulary.names == [*Vocabulary.parse("voc20").names, "background"]  # the order of the protocol
    assert sorted(asked.ids) == list(range(21))


def test_words_of_an_author_by_name(tmp_path: Path) -> None:
    classes = ["water", "others", "forest", "road", "building", "barren", "agricultural"]
    asked = asked_of(tmp_path / "data", classes, "segearth_ov/mini", "loveda")
    found = names_of(asked, classes)
    assert found["building"] == "building|roof|house" and found["others"] == "others"
    assert asked.notes == ("asked by the words of protocol 'loveda', matched by name: building as building|roof|house",)
    # 'table' of SAM 3 is no name of a class here, and the list is not that of the protocol: nothing is guessed.
    asked = asked_of(tmp_path / "b", classes, "sam3", "voc21")
    assert asked.vocabulary.names == classes and "are not one for each class here" in asked.notes[0]


@pytest.mark.parametrize("own", [False, True])
def test_words_by_position_where_the_protocol_is_for_the_list(tmp_path: Path, own: bool) -> None:
    classes = VOC21.names if own else [f"class {i}" for i in range(21)]
    asked = asked_of(tmp_path / "data", classes, "sam3", "voc21", "" if own else "voc21_val")
    found = list(names_of(asked, classes).values())
    assert found[:5] == ["background", "aeroplane", "bicycle", "bird", "ship"] and found[11] == "table"
    assert np.array_equal(asked.ids, np.arange(21))
    assert "matched by position, for the protocol is for this list" in asked.notes[0]
    if own:
        assert "boat as ship" in asked.notes[0]
        swapped = [*classes[:2], *classes[3:1:-1], *classes[4:]]  # bicycle and bird
        asked = asked_of(tmp_path / "swapped", swapped, "sam3", "voc21", "voc21_val")
        assert asked.vocabulary.names == swapped and "are not one for each class" in asked.notes[0]


def test_words_that_are_those_of_the_data_set_need_no_note(tmp_path: Path) -> None:
    words = Vocabulary.parse("voc21")
    dataset = read_folder(write_data(tmp_path / "data", VOC21.names))
    own = dataclasses.replace(dataset, classes=words)
    assert by_protocol(own, words, "voc21").notes == ()


def test_words_that_the_caller_gives_to_the_model_are_no_words_of_the_protocol() -> None:
    assert resolve("sclip/mini", "voc21").protocol_words("voc21") == "voc20"
    changes = {"MODEL": {"TEXT": {"VOCABULARY": "cat, dog"}}}
    assert resolve("sclip/mini", "voc21", changes).protocol_words("voc21") == ""
    assert resolve("sclip/mini", "common").protocol_words("common") == ""


def test_eval_by_a_protocol(tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = VOC21.names[::-1]
    data = write_data(tmp_path / "data", [f"{name}|ship" if name == "boat" else name for name in names])
    model = f"sclip/{tiny_clip}"
    arguments = ["--dataset", str(data), "--model", model, "--device", "cpu", "--protocol", "voc21"]
    assert main(["eval", *arguments, "--output", str(tmp_path / "run")]) == 0
    err = capsys.readouterr().err
    assert "count as 'background', which is not asked by its name" in err
    assert "asked by the words of protocol 'voc21', matched by name: boat as boat" in err
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["vocabulary"]["names"] == names and result["no_class_as"] == "background"
    assert result["vocabulary"]["asked"] == {"boat": ["boat"]}
    own = ovseg.load(model, protocol="voc21", device="cpu")(data / "images/0.png", "voc20").labels
    places = np.append(np.arange(20)[::-1], 20)
    np.testing.assert_array_equal(read_label_png(tmp_path / "run/labels/0.png"), places[own])
    assert main(["eval", *arguments, "--vocabulary", "voc21", "--output", str(tmp_path / "b")]) == 0
    assert "asked by the words of protocol" not in capsys.readouterr().err
