"""The shipped settings for the data sets of SegEarth-OV3."""

from __future__ import annotations

import pytest

from ovseg.config import config_root
from ovseg.vocabulary import Vocabulary
from ovseg.zoo import resolve
from ovseg.zoo.names import COMMON, list_protocols

PROTOCOLS = sorted({*list_protocols(config_root() / "sam3/sam3.yaml")} - {COMMON})


@pytest.mark.parametrize("name", PROTOCOLS)
def test_weak_pixels_go_to_the_background_where_there_is_one(name):
    spec = resolve("sam3", name)
    model, words = spec.config.MODEL, Vocabulary.parse(spec.own_words)
    place, least = model.PROTOCOL.THRESHOLD_LABEL, model.PROTOCOL.PROB_THRESHOLD
    assert not words.notes and (place >= 0) == (least > 0) and 0 < model.SAM3.CONFIDENCE <= 0.5
    if least > 0:
        assert {"background", "clutter"} & {*words.classes[place].names}
    assert "SegEarth-OV-3" in spec.layers[0].source


def test_there_are_words_for_the_views_from_above():
    assert len(PROTOCOLS) == 27
    assert Vocabulary.parse(resolve("sam3", "loveda").own_words).classes[4].names == ("barren", "bareland", "soil")
    protocol = resolve("sam3", "openearthmap").config.MODEL.PROTOCOL
    assert (protocol.WINDOW, protocol.STRIDE, protocol.ASPECT) == (512, 512, "photo")
    assert "words of github.com/likyoo/SegEarth-OV" in resolve("sam3", "uavid").layers[0].source
