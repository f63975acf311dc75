"""Pictures that hold masks are read to the value, or refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg.data.mask_files import read_label_image, read_segment_ids
from ovseg.errors import InputError

IDS = np.kron(np.arange(4).reshape(2, 2), np.ones((4, 4))).astype(np.uint8)


def palette(ids):
    image = Image.fromarray(ids, "P")
    image.putpalette([200, 9, 9, 9, 200, 9, 9, 9, 200, 1, 2, 3])
    return image


@pytest.mark.parametrize(
    ("image", "kind", "bits"),
    [
        (Image.fromarray(IDS), "PNG", 8),
        (palette(IDS), "PNG", 8),
        (Image.fromarray(IDS.astype(np.uint16)), "PNG", 16),
        (Image.fromarray(IDS.astype(np.int32)), "TIFF", 16),
    ],
)
def test_ids_are_read_as_they_are(tmp_path, image, kind, bits):
    image.save(tmp_path / "label.png", kind)
    values, depth = read_label_image(tmp_path / "label.png")
    assert (values == IDS).all() and depth == bits


def test_masks_of_one_bit(tmp_path):
    Image.fromarray(IDS > 0).save(tmp_path / "label.png")
    values, depth = read_label_image(tmp_path / "label.png")
    assert (values == (IDS > 0)).all() and depth == 8


@pytest.mark.parametrize(
    ("image", "kind", "reason"),
    [
        (Image.fromarray(IDS.astype(np.float32)), "TIFF", "holds float32 from 0 to 3; expected class ids"),
        (Image.fromarray(IDS.astype(np.int32) - 1), "TIFF", "holds int32 from -1 to 2; expected class ids"),
        (Image.fromarray(IDS.astype(np.int32) << 16), "TIFF", "holds int32 from 0 to 196608; expected class ids"),
        (Image.fromarray(np.dstack([IDS, IDS]), "LA"), "PNG", "has 2 channels"),
        (Image.fromarray(IDS), "JPEG", "is a JPEG, which changes ids as it saves them; make it anew as PNG"),
    ],
)
def test_other_values_are_refused(tmp_path, image, kind, reason):
    image.save(tmp_path / "label.png", kind)
    with pytest.raises(InputError, match=f"label.png' {reason}"):
        read_label_image(tmp_path / "label.png")


def test_segments_in_a_jpeg_are_refused(tmp_path):
    Image.fromarray(np.dstack([IDS] * 3)).save(tmp_path / "ids.png", "JPEG")
    with pytest.raises(InputError, match=r"ids.png' is a JPEG"):
        read_segment_ids(tmp_path / "ids.png")
