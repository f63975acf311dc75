"""Pictures as classes on the command line, and what models make of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import ovseg
from ovseg.cli import main
from ovseg.data.examples import with_examples


@pytest.fixture
def mask(photo, tmp_path):
    """A file with a square in the middle of the photograph."""
    own = np.zeros((72, 96), np.uint8)
    own[20:50, 30:60] = 255
    Image.fromarray(own).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_a_picture_beside_words(photo, mask, tiny_clip, tmp_path, capsys):
    asked = ["--classes", "cat, dog", "--class-image", f"mug={photo}:{mask}", "--templates", "simple"]
    model = ["--model", f"clearclip/{tiny_clip}", "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main(["segment", str(photo), *asked, *model]) == 0
    report = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert [entry["name"] for entry in report["classes"]] == ["cat", "dog", "mug"]
    own = report["classes"][2]
    assert (own["by_name"], len(own["examples"]), len(own["examples"][0]["hash"])) == (False, 1, 16)
    assert "examples" not in report["classes"][0]
    assert any("mug is known by 1 picture alone" in note for note in report["meta"]["notes"])


def test_rows_of_pictures_and_names(photo, mask, tiny_clip):
    segmenter = ovseg.load(f"clearclip/{tiny_clip}", "cpu")
    alone = segmenter.words(with_examples("cat, dog", {"mug": (photo, mask)}), "none")
    assert alone.query_to_class.tolist() == [0, 1, 2] and alone.texts[-1] == "mug (picture)"
    both = segmenter.words(with_examples("cat, dog, mug", {"mug": (photo, mask)}), "none")
    assert both.query_to_class.tolist() == [0, 1, 2, 2]
    lengths = both.embeddings.float().norm(dim=-1)
    assert float(lengths[-1]) == pytest.approx(0.7 * float(lengths[:3].mean()), rel=1e-4)
    other = segmenter.words(with_examples("cat, dog", {"cup": (photo, mask)}), "none")
    np.testing.assert_allclose(
        other.embeddings.float().cpu(), alone.embeddings.float().cpu(), atol=1e-6
    )  # names count not
    single = segmenter.words(with_examples(None, {"mug": (photo, mask)}), "none")  # contrast words are beside it
    assert single.query_to_class.tolist().count(0) == 1 and any("contrast words" in note for note in single.notes)


def test_mistakes_are_told(photo, tiny_clip, tmp_path, capsys):
    asked = ["--classes", "cat", "--model", str(tiny_clip), "--output", str(tmp_path / "out")]
    assert main(["segment", str(photo), *asked, "--class-image", "mug"]) == 2
    assert "expected NAME=PICTURE:MASK" in capsys.readouterr().err
