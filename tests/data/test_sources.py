"""What is one image and what are several."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg.data.sources import each_image, is_several
from ovseg.errors import InputError

ARRAY = np.zeros((4, 5, 3), np.uint8)


def names(sources: object) -> list[str]:
    return [Path(str(one)).name for one in each_image(sources)]


@pytest.mark.parametrize(
    "source",
    ["x.jpg", Path("x.jpg"), ARRAY, ARRAY[..., 0], torch.zeros(3, 4, 5), Image.new("L", (3, 3)), io.BytesIO(b"")],
)
def test_one_image(source: object) -> None:
    assert not is_several(source)
    (same,) = each_image(source)
    assert same is source


@pytest.mark.parametrize("source", [b"bytes", {"a.jpg": 1}, {"a.jpg"}, None, 7])
def test_what_is_no_image_is_left_to_the_reader(source: object) -> None:
    assert not is_several(source) and each_image(source) == [source]


def test_several(photos: Path) -> None:
    assert all(
        map(is_several, (photos, str(photos), ["x.jpg"], (), iter([]), np.zeros((2, 4, 5, 3)), torch.zeros(1, 3, 4, 5)))
    )
    assert names(photos) == names(str(photos)) == ["a.jpg", "b.png", "c.webp"]
    assert names(["x.jpg", photos, ("y.jpg", ["z.jpg"])]) == ["x.jpg", "a.jpg", "b.png", "c.webp", "y.jpg", "z.jpg"]
    assert [one.shape for one in each_image([np.zeros((2, 4, 5, 3)), ARRAY])] == [(4, 5, 3)] * 3
    with pytest.raises(InputError, match="holds no images"):
        each_image([Path(__file__).parent / "benchmarks"])


def test_generators_are_taken_one_by_one(photos: Path) -> None:
    taken = []

    def camera():
        for number in range(3):
            taken.append(number)
            yield ARRAY

    found = iter(each_image(camera()))
    next(found)
    assert taken == [0]
    assert len(list(found)) == 2 and names(dataset for dataset in [photos, "x.jpg"])[-1] == "x.jpg"
