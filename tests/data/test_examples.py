"""Pictures that stand for classes: how they are read, what makes them equal, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg.data.examples import parse_examples, read_example, with_examples
from ovseg.errors import InputError, VocabularyError
from ovseg.vocabulary import ClassEntry, Vocabulary


@pytest.fixture
def mask(pixels):
    """A square in the middle."""
    own = np.zeros(pixels.shape[:2], np.uint8)
    own[20:50, 30:60] = 255
    return own


def test_a_new_name_is_known_by_its_picture_alone_and_a_listed_one_by_both(pixels, mask):
    found = with_examples("cat|kitten, dog", {"kitten": (pixels, mask), "mug": [(pixels, mask), (pixels, mask > 0)]})
    assert found.names == ["cat", "dog", "mug"]
    assert [len(entry.examples) for entry in found] == [1, 0, 2]
    assert [entry.by_name for entry in found] == [True, True, False]


def test_identity_goes_by_content(pixels, mask, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
    first, second = (read_example(tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png") for name in ("a", "b"))
    other = read_example(pixels, np.roll(mask, 1, 0))
    assert first == second and hash(first) == hash(second) and first != other
    plain = Vocabulary.parse("cat")
    hashes = {
        plain.hash,
        *(with_examples("cat", {"cat": (one.pixels, one.mask)}).hash for one in (first, second, other)),
    }
    assert len(hashes) == 3


def test_texts_of_the_command_line():
    found = parse_examples(["mug=a.jpg:b.png", "mug = c.jpg:d.png", "cup=C:\\x.jpg:C:\\y.png"])
    assert [len(found["mug"]), found["cup"]] == [2, [("C:\\x.jpg", "C:\\y.png")]]
    for text in ("mug", "mug=a.jpg", "=a.jpg:b.png"):
        with pytest.raises(VocabularyError, match="expected NAME=PICTURE:MASK"):
            parse_examples([text])


def test_what_shows_no_object_is_refused(pixels, mask, tmp_path):
    with pytest.raises(VocabularyError, match="is empty"):
        read_example(pixels, 0 * mask)
    with pytest.raises(VocabularyError, match="as large as its picture"):
        read_example(pixels, mask[:-1])
    with pytest.raises(InputError, match="none"):
        read_example(tmp_path / "none.jpg", mask)
    with pytest.raises(VocabularyError, match="no picture of"):
        with_examples("cat", {"mug": []})
    with pytest.raises(VocabularyError, match="neither by name nor by pictures"):
        ClassEntry(("mug",), by_name=False)
