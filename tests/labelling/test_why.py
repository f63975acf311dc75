"""Why a pixel has its label, in words."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import ovseg
from ovseg.errors import ConfigError, InputError
from ovseg.labelling.why import TOP, why
from ovseg.segmenter import EncodedImage

WORDS = "cat|kitten, sofa, wall, lamp, door, roof"


@pytest.fixture(scope="module")
def photo(tiny_clip: Path, pixels: np.ndarray) -> EncodedImage:
    return ovseg.load(f"clearclip/{tiny_clip}", "cpu").encode(pixels)


def test_it_agrees_with_the_map(photo: EncodedImage) -> None:
    result = photo.answer(WORDS, want="class_scores")
    for row, column in ((0, 0), (30, 40), (71, 95)):
        found = why(photo, row, column, WORDS)
        label = int(result.labels[row, column])
        assert (found.row, found.column, found.label) == (row, column, result.classes[label].name)
        assert found.score == result.scores[row, column] and found.top[0].name == found.label and not found.remark
        assert len(found.top) == TOP and found.margin == pytest.approx(found.top[0].score - found.top[1].score)
        for one in found.top:
            own = result.classes.names.index(one.name)
            assert one.score == pytest.approx(float(result.class_scores[own, row, column]), abs=1e-5)
            assert one.word in result.classes[own].names and one.color == result.classes[own].color
        assert found.background is None


def test_a_background_has_its_say(photo: EncodedImage) -> None:
    found = why(photo, 3, 4, "cat, sofa", background="threshold:0.999")
    assert found.label == "" and "below the threshold of the background" in found.remark and found.background is None
    words = why(photo, 3, 4, "cat, sofa", background="sky, grass")
    assert words.background is not None and words.background[0] in ("sky", "grass")
    assert words.to_json()["background"] == {"word": words.background[0], "score": words.background[1]}
    assert json.loads(json.dumps(words.to_json()))["top"][0]["name"] == words.top[0].name


def test_a_notebook_shows_a_table_whose_names_are_text(photo: EncodedImage) -> None:
    page = why(photo, 3, 4, ["<b>cat</b>", "sofa"], background="sky, grass")._repr_html_()
    assert (
        "<b>cat" not in page and "&lt;b&gt;cat&lt;/b&gt;" in page and "(no class)" in page and "row 3, column 4" in page
    )


def test_mistakes(photo: EncodedImage) -> None:
    with pytest.raises(InputError, match="row 72, column 0; expected rows below 72"):
        why(photo, 72, 0, WORDS)
    with pytest.raises(ConfigError, match="came out of a pickle without a model"):
        why(pickle.loads(pickle.dumps(photo)), 0, 0, WORDS)
