from __future__ import annotations

import pytest

from ovseg.errors import UnknownNameError, VocabularyError
from ovseg.vocabulary import TEMPLATES, resolve_templates
from ovseg.vocabulary.templates import fill


def test_openai_templates_are_those_of_open_clip() -> None:
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    assert TEMPLATES["openai80"] == tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    assert fill(TEMPLATES["openai80"][3], "cat") == OPENAI_IMAGENET_TEMPLATES[3]("cat")


def test_vild_templates() -> None:
    assert TEMPLATES["vild14"] == (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        "a photo of a small {}.",
        "a photo of a medium {}.",
        "a photo of a large {}.",
        "This is a photo of a small {}.",
        "This is a photo of a medium {}.",
        "This is a photo of a large {}.",
        "There is a small {} in the scene.",
        "There is a medium {} in the scene.",
        "There is a large {} in the scene.",
    )


def test_templates() -> None:
    assert {name: len(found) for name, found in TEMPLATES.items()} == {
        "none": 1,
        "simple": 1,
        "vild14": 14,
        "openai7": 7,
        "openai80": 80,
        "maskclip85": 85,
        "image_of": 1,
        "clipseg": 1,
        "pixelclip8": 8,
        "cat_seg": 1,
    }
    assert resolve_templates("simple") == ("a photo of a {}.",)
    assert resolve_templates(["one {}", "{0} and {}"]) == ("one {}", "{0} and {}")
    assert fill("{0} and {}", "{x}") == "{0} and {x}"
    with pytest.raises(UnknownNameError, match="did you mean openai7, openai80"):
        resolve_templates("openai")
    for bad in ([], ["no place"], ["{} and {}"], [3]):
        with pytest.raises(VocabularyError):
            resolve_templates(bad)  # type: ignore[arg-type]
