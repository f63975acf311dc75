from __future__ import annotations

import pytest

from ovseg.vocabulary import Vocabulary, list_presets


@pytest.mark.parametrize(
    ("name", "classes", "things", "some"),
    [
        ("voc20", 20, 20, {0: "aeroplane", 14: "person", 19: "tv monitor"}),
        ("voc21", 21, 20, {0: "background", 15: "person", 20: "tv monitor"}),
        ("pc59", 59, 31, {0: "aeroplane", 19: "tv monitor", 20: "bag", 58: "wood"}),
        ("pc60", 60, 31, {0: "background", 1: "aeroplane", 59: "wood"}),
        ("coco80", 80, 80, {0: "person", 10: "fire hydrant", 79: "toothbrush"}),
        ("coco171", 171, 80, {0: "person", 80: "banner", 84: "building", 159: "brick wall", 170: "wood"}),
        ("ade150", 150, 100, {0: "wall", 12: "person", 119: "ball", 149: "flag"}),
        ("coco81", 81, 80, {0: "background", 1: "person", 80: "toothbrush"}),
        ("cityscapes19", 19, 8, {0: "road", 11: "person", 18: "bicycle"}),
    ],
)
def test_presets(name: str, classes: int, things: int, some: dict[int, str]) -> None:
    vocabulary = Vocabulary.parse(name)
    assert len(vocabulary) == len(vocabulary.queries) == classes
    assert sum(entry.is_thing for entry in vocabulary) == things
    assert {i: vocabulary[i].name for i in some} == some
    assert all(name == name.strip() and "-" not in name for name in vocabulary.names)


def test_presets_are_all_tested_and_consistent() -> None:
    wanted = "voc20 voc21 pc59 pc60 coco80 coco81 coco133 coco171 cocostuff171 ade150 cityscapes19 scenes"
    assert list_presets() == sorted(wanted.split())
    for small, large in (("voc20", "voc21"), ("pc59", "pc60"), ("coco80", "coco81")):
        assert Vocabulary.parse(small).classes == Vocabulary.parse(large).classes[1:]
    assert Vocabulary.parse("coco80").classes == Vocabulary.parse("coco171").classes[:80]


def test_scenes_has_synonyms() -> None:
    vocabulary = Vocabulary.parse("scenes")
    assert (len(vocabulary), sum(entry.is_thing for entry in vocabulary)) == (615, 601)
    assert len(vocabulary.queries) > 615 and vocabulary[614].names == ("foliage", "hedge")


def test_coco133_is_the_training_vocabulary_of_fcclip() -> None:
    vocabulary = Vocabulary.parse("coco133")
    assert (len(vocabulary), len(vocabulary.queries), sum(entry.is_thing for entry in vocabulary)) == (133, 254, 80)
    meta = pytest.importorskip("detectron2.data.datasets.builtin_meta")
    assert [entry.is_thing for entry in vocabulary] == [bool(c["isthing"]) for c in meta.COCO_CATEGORIES]
    assert vocabulary[62].names == ("tv",) and vocabulary[119].names == ("sky", "clouds")


def test_cocostuff171_is_the_training_vocabulary_of_maft_plus() -> None:
    vocabulary, plain = Vocabulary.parse("cocostuff171"), Vocabulary.parse("coco171")
    assert (len(vocabulary), len(vocabulary.queries)) == (171, 328)
    assert [entry.is_thing for entry in vocabulary] == [entry.is_thing for entry in plain]
    other = [entry.names for entry, known in zip(vocabulary, plain, strict=True) if known.name not in entry.names]
    assert len(other) == 5 and vocabulary[170].names == ("wood",)


def test_detectron2_agrees_on_order() -> None:
    meta = pytest.importorskip("detectron2.data.datasets.builtin_meta")
    coco = [c["name"] for c in meta.COCO_CATEGORIES if c["isthing"]]
    assert Vocabulary.parse("coco80").names == coco
    ade = [name.split(",")[0].strip() for name in meta.ADE20K_SEM_SEG_CATEGORIES]
    assert Vocabulary.parse("ade150").names == ade
    city = [(c["name"], bool(c["isthing"])) for c in meta.CITYSCAPES_CATEGORIES]
    assert [(entry.name, entry.is_thing) for entry in Vocabulary.parse("cityscapes19")] == city
