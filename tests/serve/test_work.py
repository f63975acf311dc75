from __future__ import annotations

import threading

import pytest
from starlette.testclient import TestClient

from ovseg.serve.server import make_app
from ovseg.serve.work import Busy, Halted, Work
from ovseg.system.progress import report
from tests.serve.conftest import until


def test_a_task_tells_what_it_is_at_and_returns():
    go = threading.Event()

    def task(job):
        report("windows", 1, 3)
        assert go.wait(10)
        return 7

    work, told = Work(1, 1, 30), []
    steps = work.watch(task)
    while True:
        try:
            told.append(next(steps))
        except StopIteration as end:
            assert end.value == 7
            break
        if "windows 1 of 3" in told[-1]:
            go.set()
    assert go.is_set() and until(lambda: work.running == 0)


def test_errors_come_back_and_leave_their_place():
    def task(job):
        raise ValueError("mine")

    work = Work(1, 1, 30)
    for _ in range(5):
        with pytest.raises(ValueError, match="mine"):
            work.call(task)
        assert until(lambda: work.running == 0)


def test_more_than_may_wait_are_sent_away():
    go, work = threading.Event(), Work(1, 1, 30)
    waiting = [work.watch(lambda job: go.wait(10)) for _ in range(2)]
    for steps in waiting:
        next(steps)
    with pytest.raises(Busy, match="2 requests run or wait, as many as this page takes"):
        work.call(lambda job: None)
    go.set()
    assert until(lambda: all(_ended(steps) for steps in waiting))
    assert until(lambda: work.running == 0) and work.call(lambda job: "again") == "again"


def _ended(steps):
    try:
        next(steps)
    except StopIteration:
        return True
    return False


@pytest.mark.parametrize("how", ["owner", "gone"])
def test_a_cancelled_task_ends_where_it_next_says_something(how):
    reached, ended = threading.Event(), threading.Event()

    def task(job):
        try:
            for step in range(10_000):
                reached.set()
                report("windows", step, 10_000)
                threading.Event().wait(0.005)
        finally:
            ended.set()

    work = Work(1, 4, 60)
    steps = work.watch(task, "mine")
    next(steps)
    assert reached.wait(10)
    if how == "gone":
        steps.close()
    else:
        assert work.halt("another") == 0 and work.halt("") == 0 and work.halt("mine") == 1
        with pytest.raises(Halted, match="was cancelled"):
            while True:
                next(steps)
    assert ended.wait(10) and until(lambda: work.running == 0)


def test_what_takes_too_long_is_answered_though_it_goes_on():
    go, work = threading.Event(), Work(1, 2, 0.3)
    with pytest.raises(Halted, match=r"took longer than 0\.3 seconds"):
        work.call(lambda job: go.wait(10))
    with pytest.raises(Halted, match=r"waited for a worker longer than 0\.3 seconds"):
        work.call(lambda job: None)
    go.set()
    assert until(lambda: work.running == 0)


def test_a_closed_one_finishes_what_runs():
    go, work = threading.Event(), Work(1, 2, 30)
    steps = work.watch(lambda job: go.wait(10) and "done")
    next(steps)
    work.close()
    with pytest.raises(Busy, match="about to end"):
        work.call(lambda job: None)
    go.set()
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
    assert end.value.value == "done"


def test_gradio_keeps_a_bounded_number_of_calls(service):
    """By itself it keeps a copy of the page for each of 10,000 callers, which is most of a gigabyte."""
    guard, _ = make_app(service)
    with TestClient(guard) as client:
        for _ in range(40):
            event = client.post("/gradio_api/call/models", json={"data": []}).json()["event_id"]
            assert '["mini", "sclip/mini"]' in client.get(f"/gradio_api/call/models/{event}").text
    kept = [own.app.state_holder for own in guard._app.routes if hasattr(getattr(own, "app", None), "state_holder")]
    assert len(kept) == 1 and 0 < len(kept[0].session_data) <= 32
