"""Threads beside the main one: order, bounds, errors, and what happens to work on an early end."""

from __future__ import annotations

import threading

import pytest

from ovseg.system.overlap import overlapped, worker_threads


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_items_come_in_order_with_their_results(threads):
    gates = [threading.Event() for _ in range(threads)]

    def work(number):  # the last of the first few goes first
        if number < threads - 1:
            gates[number + 1].wait(10)
        if number < threads:
            gates[number].set()
        return number * number

    found = [(item, result()) for item, result in overlapped(work, range(20), threads, threads + 2)]
    assert found == [(number, number * number) for number in range(20)]


def test_no_more_items_are_taken_than_allowed():
    taken, given, never = [], 0, threading.Event()

    def items():
        for number in range(30):
            taken.append(number)
            yield number

    for _, result in overlapped(lambda number: never.wait(0.001), items(), 1, 3):
        result()
        given += 1
        assert len(taken) - given <= 3
    assert given == 30


def test_an_error_belongs_to_its_item():
    found = []
    for item, result in overlapped(lambda number: 1 // number, [1, 0, 2], 2, 2):
        try:
            found.append(result())
        except ZeroDivisionError:
            found.append(f"error of {item}")
    assert found == [1, "error of 0", 0]


def test_what_was_taken_before_a_failure_is_done():
    done = []

    def items():
        yield from range(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(overlapped(done.append, items(), 1, 8))
    assert done == [0, 1, 2, 3]


def test_a_caller_who_stops_leaves_the_rest_undone():
    begun, gate = [], threading.Event()

    def work(number):
        begun.append(number)
        if number:
            gate.wait(10)

    results = overlapped(work, range(10), 1, 8)
    next(results)[1]()
    gate.set()
    results.close()
    assert len(begun) < 10


def test_there_is_a_thread():
    assert 1 <= worker_threads() <= 4
