"""One photograph and several requests at the same time: another tab, a click while the model still looks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import ovseg
from ovseg.errors import InputError
from ovseg.serve.limits import Limits
from ovseg.serve.models import Models
from ovseg.serve.service import Service
from ovseg.serve.work import Halted, Work
from tests.serve.conftest import until

WORDS = "sky|blue sky, grass, sand"


@pytest.fixture
def opened(service, jpeg):
    return service.open(jpeg, "x.jpg").name


@pytest.fixture
def slow(service, monkeypatch):
    """Looks with `sclip/mini` last until they are let go; an event for when one has begun, and one to end it."""
    segmenter, begun, go = service.models.get("sclip/mini"), threading.Event(), threading.Event()
    look = segmenter.encode
    monkeypatch.setattr(segmenter, "encode", lambda photo: begun.set() or (go.wait(30) and look(photo)))
    yield begun, go
    go.set()


def test_who_clicks_while_a_model_looks_waits_for_nothing(service, opened, slow):
    """The workers of what is quick are shared by all users: none may stand still for one of them."""
    begun, go = slow
    service.segment(opened, WORDS)
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(service.segment, opened, WORDS, "sclip/mini", side="B")
        assert begun.wait(10)
        assert service.why(opened, 3, 3)["top"] and service.heat(opened, 1)["map"]
        service.correct(opened, 3, 3, "a wall")
        assert service.undo(opened).corrections == ()
        service.sessions.get(opened).encoded = {}  # it made room for others meanwhile
        with pytest.raises(InputError, match="another answer for this photograph is on its way"):
            service.why(opened, 3, 3)
        go.set()
        assert asked.result(30).result.classes
    assert service.why(opened, 3, 3)["top"]


def test_who_waits_for_a_look_of_another_can_be_cancelled(service, opened, slow):
    begun, go = slow
    work = Work(2, 4, 60)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(work.call, lambda job: service.segment(opened, WORDS, "sclip/mini", say=job.say), "one")
        assert begun.wait(10)
        second = work.watch(lambda job: service.segment(opened, WORDS, "sclip/mini", "", "B", job.say), "two")
        assert until(lambda: next(second) == "waiting for another answer for this photograph")
        assert work.halt("two") == 1
        with pytest.raises(Halted):
            list(second)
        assert until(lambda: work.running == 1)  # the other one goes on, and nobody stands behind it
        go.set()
        assert first.result(30).result.classes


def test_a_correction_of_an_answer_that_is_replaced_is_not_put_over_the_new_one(service, opened):
    old = service.segment(opened, WORDS)
    new = service.segment(opened, "bus, tree")
    for change in (
        lambda turn: service.correct(opened, 3, 3, "a wall", "A", turn),
        lambda turn: service.undo(opened, "A", turn),
        lambda turn: service.why(opened, 3, 3, "A", turn),
        lambda turn: service.heat(opened, 1, "A", turn),
    ):
        with pytest.raises(InputError, match="answer A was changed meanwhile, perhaps in another tab; load the page"):
            change(old.turn)
    assert service.sessions.get(opened).sides["A"] is new
    turns = [new.turn, service.correct(opened, 3, 3, "a wall", "A", new.turn).turn]
    turns.append(service.undo(opened, "A", turns[-1]).turn)
    assert len(set(turns)) == 3 and service.shown(opened)["sides"]["A"]["turn"] == turns[-1]


@pytest.mark.slow
def test_room_is_made_while_others_work(service, opened):
    """What was seen may be dropped at any moment; it is seen again."""
    service.segment(opened, WORDS)
    own, ended = service.sessions.get(opened), threading.Event()

    def drop():
        while not ended.is_set():
            own.encoded = {}

    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        for _ in range(40):
            service.segment(opened, WORDS, "sclip/mini")
            assert service.why(opened, 3, 3)["top"]
    finally:
        ended.set()
        dropping.join()


def test_a_model_that_made_room_is_not_kept_by_what_it_saw(jpeg):
    service = Service(Models(["a", "b"], 1, lambda _: ovseg.load("mini")), Limits())
    first, second = (service.open(jpeg, "x.jpg").name for _ in range(2))
    service.segment(first, WORDS, "a")
    service.segment(second, WORDS, "b")
    assert service.models.loaded == ["b"] and not service.sessions.get(first).encoded
    assert service.why(first, 3, 3)["top"] and service.models.loaded == ["a"]
