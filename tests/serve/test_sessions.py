from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg.contract import Encoded
from ovseg.data.images import LoadedImage
from ovseg.errors import ConfigError, InputError
from ovseg.segmenter import EncodedImage
from ovseg.serve.limits import Limits
from ovseg.serve.sessions import Sessions


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def photo(megabytes=3.0):
    return LoadedImage(np.zeros((1000, round(megabytes * 1000 / 3), 3), np.uint8), "photo.jpg")


def test_names_cannot_be_guessed_and_lead_back():
    sessions = Sessions(Limits())
    found = [sessions.open(photo(0.003)) for _ in range(20)]
    assert len({own.name for own in found}) == 20 and min(len(own.name) for own in found) >= 20
    assert all(sessions.get(own.name) is own for own in found)
    with pytest.raises(InputError, match="not here any more: it is kept for 120 minutes; open it again"):
        sessions.get("guessed")


def test_what_is_not_touched_goes():
    clock = Clock()
    sessions = Sessions(Limits(keep=10), clock)
    old, used = sessions.open(photo()), sessions.open(photo())
    clock.now = 500
    sessions.get(used.name)
    clock.now = 700
    sessions.tidy()
    assert len(sessions) == 1 and sessions.get(used.name) is used
    with pytest.raises(InputError):
        sessions.get(old.name)


def test_memory_is_limited_and_encodings_go_first():
    sessions = Sessions(Limits(memory=10))
    first, second = sessions.open(photo()), sessions.open(photo())
    first.encoded["mini"] = EncodedImage(first.photo, Encoded(({"x": torch.zeros(10**6)},), ((1, 1),), ""), 0, {})
    assert first.bytes == pytest.approx(7e6)
    third = sessions.open(photo())
    assert not first.encoded and sessions.bytes == pytest.approx(9e6)
    sessions.open(photo())
    assert sessions.bytes <= 10e6 and sessions.get(third.name) is third and sessions.get(second.name) is second
    with pytest.raises(InputError):
        sessions.get(first.name)


def test_what_models_have_seen_that_are_gone_is_dropped():
    """It would keep them in memory."""
    sessions = Sessions(Limits())
    own = sessions.open(photo())
    for name in ("mini", "san"):
        own.encoded[name] = EncodedImage(own.photo, Encoded(({"x": torch.zeros(10)},), ((1, 1),), ""), 0, {})
    sessions.forget(["san", "other"])
    assert list(own.encoded) == ["san"]


def test_one_that_is_larger_than_the_limit_is_kept_alone():
    sessions = Sessions(Limits(memory=1))
    sessions.open(photo())
    large = sessions.open(photo(5))
    assert len(sessions) == 1 and sessions.get(large.name) is large


def test_limits_are_positive():
    with pytest.raises(ConfigError, match="the limit words is 0; expected a positive number"):
        Limits(words=0)
    for wrong in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"the limit megabytes is .*; expected a positive number"):
            Limits(megabytes=wrong)


def test_no_more_words_are_taken_than_can_be_drawn():
    """Labels are drawn by numbers of 16 bits; corrections may add a thousand names."""
    assert Limits(words=64_000).words + 1000 < 2**16
    with pytest.raises(ConfigError, match="the limit words is 70000; expected at most 64000"):
        Limits(words=70_000)
