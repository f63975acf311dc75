from __future__ import annotations

import io
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import ovseg
from ovseg.errors import InputError, UnknownNameError, VocabularyError
from ovseg.result.formats.labels import read_label_png
from ovseg.serve.exports import offers, plain_name
from ovseg.serve.limits import Limits
from ovseg.serve.models import Models
from ovseg.serve.service import Service, examples
from tests.conftest import make_photo
from tests.serve.conftest import encoded

WORDS = "sky|blue sky, grass, sand"


def passes(service, monkeypatch):
    """Return a list that grows with every pass of the image tower."""
    counted = []
    for name in service.models.names:
        model = service.models.get(name).model
        see = model.see
        monkeypatch.setattr(model, "see", lambda images, see=see: counted.append(len(images)) or see(images))
    return counted


@pytest.fixture
def opened(service, jpeg):
    return service.open(jpeg, "C:\\photos\\../my photo.jpg").name


def test_an_answer_is_that_of_the_library(service, opened, jpeg):
    found = service.segment(opened, WORDS, background="words").result
    wanted = ovseg.load("mini")(io.BytesIO(jpeg), WORDS, "words")
    np.testing.assert_array_equal(found.labels, wanted.labels)
    assert found.classes == wanted.classes and found.meta["background"] == wanted.meta["background"]


def test_new_words_and_reasons_take_no_new_look(service, opened, monkeypatch):
    """That is why they are there within half a second."""
    looks = passes(service, monkeypatch)
    assert not service.segment(opened, WORDS).seen_before
    assert service.segment(opened, "bus, tree, cloud").seen_before
    assert service.segment(opened, "bus, tree", background="sky, wall", side="B").seen_before
    service.why(opened, 10, 20)
    service.heat(opened, 1)
    service.correct(opened, 3, 3, "wall")
    service.shown(opened)
    assert looks == [1]
    service.segment(opened, WORDS, "sclip/mini", side="B")
    service.why(opened, 10, 20, "B")
    assert looks == [1, 1]


@pytest.mark.parametrize("model", ["mini", "sclip/mini"])
def test_why_names_the_best_five_and_the_synonym_that_won(service, opened, model):
    service.segment(opened, "sky|blue sky, grass, sand|beach, bus, tree|oak, cloud", model)
    result = service.sessions.get(opened).sides["A"].result
    for row, column in ((0, 0), (40, 50), (71, 95)):
        found = service.why(opened, row, column)
        assert found["label"] == result.classes[result.labels[row, column]].name == found["top"][0]["name"]
        scores = [one["score"] for one in found["top"]]
        assert len(scores) == 5 and scores == sorted(scores, reverse=True)
        assert found["margin"] == pytest.approx(scores[0] - scores[1])
        for one in found["top"]:
            entry = next(entry for entry in result.classes if entry.name == one["name"])
            assert one["word"] in entry.queries
        json.dumps(found)


def test_why_says_what_the_background_has_to_do_with_it(service, opened):
    service.segment(opened, "submarine, violin", background="words:sky, grass, water, stone")
    result = service.sessions.get(opened).sides["A"].result
    places = np.argwhere(result.labels < 0)
    assert len(places)
    found = service.why(opened, *map(int, places[0]))
    assert found["label"] == "" and found["remark"] == "a word of no class scores highest here"
    assert found["background"]["word"] in ("sky", "grass", "water", "stone")
    service.segment(opened, WORDS, "sclip/mini", background="threshold:1")
    assert "below the threshold" in service.why(opened, 1, 1)["remark"]


def test_two_answers_are_compared_by_names(service, opened):
    one = service.segment(opened, "sky, grass, sand").result
    other = service.segment(opened, "SAND, grass, cloud", side="B").result
    names = [np.array([*(name.casefold() for name in own.classes.names), ""])[own.labels] for own in (one, other)]
    assert service.changed(opened) == pytest.approx((names[0] != names[1]).mean())
    shown = service.shown(opened)
    assert shown["difference"]["share"] == pytest.approx(service.changed(opened))
    service.leave_side(opened, "B")
    assert service.shown(opened)["difference"] is None
    with pytest.raises(InputError, match="no answer 'B'"):
        service.changed(opened)


def test_every_format_that_fits_can_be_downloaded_with_its_corrections(service, opened):
    service.segment(opened, WORDS)
    service.correct(opened, 0, 0, "a wall")
    now = service.sessions.get(opened).sides["A"].current
    offered = {(own["format"], own["option"]): own for own in offers(now)}
    assert {("labels", ""), ("overlay", ""), ("png", "palette"), ("report", ""), ("dataset", "")} <= offered.keys()
    for chosen, option in offered:
        found = service.download(opened, "A", chosen, option)
        assert found.name.startswith("my_photo") and found.content
    labels = io.BytesIO(service.download(opened, "A", "labels").content)
    np.testing.assert_array_equal(
        np.asarray(Image.open(labels)).astype(int), np.where(now.labels < 0, 65535, now.labels)
    )
    with zipfile.ZipFile(io.BytesIO(service.download(opened, "A", "dataset").content)) as archive:
        assert sorted(archive.namelist()) == ["classes.txt", "images/my_photo.png", "labels/my_photo.png"]
        assert archive.read("classes.txt").decode().splitlines()[-1] == "a wall"
    coco = next(
        json.loads(service.download(opened, "A", own["format"]).content)
        for own in offers(now)
        if own["format"] == "coco-semantic"
    )
    new = next(one["id"] for one in coco["categories"] if one["name"] == "a wall")
    masks = [coco_mask.decode(one["segmentation"]) for one in coco["annotations"] if one["category_id"] == new]
    assert sum(int(mask.sum()) for mask in masks) == int((now.labels == 3).sum()) > 0
    with pytest.raises(UnknownNameError, match="unknown format 'pngg'; did you mean png"):
        service.download(opened, "A", "pngg")


def test_a_download_holds_the_photograph_only_where_its_format_does(service, opened, monkeypatch):
    """Nothing else of it is written anywhere."""
    service.segment(opened, WORDS)
    saved, save = [], Image.Image.save
    monkeypatch.setattr(
        Image.Image, "save", lambda own, *given, **named: saved.append(own) or save(own, *given, **named)
    )
    for chosen, count in (("labels", 1), ("report", 0), ("dataset", 2)):
        saved.clear()
        content = service.download(opened, "A", chosen).content
        assert len(saved) == count, chosen
    photo = service.sessions.get(opened).photo.pixels
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        np.testing.assert_array_equal(np.asarray(Image.open(archive.open("images/my_photo.png"))), photo)


def test_the_heat_map_of_a_class_needs_no_map_of_all_of_them(service, opened):
    service.segment(opened, ", ".join(f"word {i}" for i in range(900)))
    found = service.heat(opened, 899)
    assert found["map"].startswith("data:image/png;base64,") and found["most"] > 0
    with pytest.raises(InputError, match="class 900 is none"):
        service.heat(opened, 900)


def test_several_users_get_their_own_words(service, jpeg):
    def user(number):
        own = service.open(jpeg, f"{number}.jpg").name
        names = [f"word {number} {i}" for i in range(3)]
        for _ in range(3):
            service.segment(own, ", ".join(names))
        return service.shown(own)["sides"]["A"]["classes"], names

    with ThreadPoolExecutor(8) as pool:
        for classes, names in pool.map(user, range(16)):
            assert [entry["name"] for entry in classes] == names


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is empty"),
        (b"no image at all", "holds text"),
        (encoded(make_photo(64, 48))[:300], "damaged"),
        (b"\x00" * 500, "damaged or in an unknown format"),
        (encoded(np.zeros((9000, 9000), np.uint8), "PNG"), "more than 50,000,000 pixels"),
    ],
    ids=["empty", "text", "truncated", "zeros", "bomb"],
)
def test_what_is_no_photograph_is_said(service, content, line):
    with pytest.raises(InputError, match=line):
        service.open(content, "x.jpg")
    assert len(service.sessions) == 0


def test_uploads_are_limited(models, jpeg):
    with pytest.raises(InputError, match=r"MB; this page takes 0\.001 MB: shrink it"):
        Service(models, Limits(megabytes=0.001)).open(jpeg, "x.jpg")


def test_mistakes_are_lines(service, opened):
    with pytest.raises(UnknownNameError, match="unknown model '/etc'"):
        service.segment(opened, WORDS, "/etc")
    with pytest.raises(InputError, match="there is no answer 'A'"):
        service.why(opened, 0, 0)
    with pytest.raises(InputError, match="not here any more"):
        service.segment("nobody", WORDS)
    with pytest.raises(VocabularyError, match="no words"):
        service.segment(opened, "")
    with pytest.raises(InputError, match=r"there is no example '\.\./\.\./etc/passwd'"):
        service.open_example("../../etc/passwd")


def test_examples_have_words_and_open(service):
    assert len(examples()) >= 4
    for name, words in examples().items():
        own = service.open_example(name).name
        assert service.segment(own, words).result.segments


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("../../etc/passwd", "passwd"),
        ("a/b\\c.tar.gz", "c.tar"),
        ("..", "photo"),
        ("", "photo"),
        ("мой кот.png", "мой_кот"),
        ("x" * 500 + ".png", "x" * 60),
        ('a";b\r\nc.jpg', "a_b_c"),
    ],
)
def test_names_of_downloads_lead_nowhere(given, name):
    assert plain_name(given) == name


def test_a_model_is_loaded_once_and_few_stay():
    loads = []

    def load(name):
        loads.append(name)
        return ovseg.load("mini")

    models = Models(["a", "b", "c"], 2, load)
    with ThreadPoolExecutor(8) as pool:
        assert len({id(one) for one in pool.map(models.get, ["a"] * 8)}) == 1
    for name in ("b", "a", "c", "a"):
        models.get(name)
    assert loads == ["a", "b", "c"] and models.loaded == ["c", "a"]
    models.get("b")
    assert loads == ["a", "b", "c", "b"] and models.loaded == ["a", "b"]


def test_labels_of_a_download_are_read_back(service, opened, tmp_path):
    service.segment(opened, WORDS)
    path = tmp_path / "x.png"
    path.write_bytes(service.download(opened, "A", "labels").content)
    np.testing.assert_array_equal(read_label_png(path), service.sessions.get(opened).sides["A"].result.labels)
