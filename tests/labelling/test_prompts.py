"""What clicks and boxes mean, on masks and labels made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ovseg
from ovseg.errors import ConfigError, InputError
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.prompts import Prompt, of_labels, of_proposals
from tests.conftest import make_photo

SIZE = (16, 16)


def masks(*boxes):
    """Logits of masks that are sure of themselves; boxes are top, left, bottom, right."""
    found = torch.full((len(boxes), *SIZE), -6.0)
    for mask, (top, left, bottom, right) in zip(found, boxes, strict=True):
        mask[top:bottom, left:right] = 6.0
    return found


def picked(logits, prompt, shares=None):
    shares = torch.full((len(logits), 3), 1 / 3) if shares is None else shares
    return of_proposals(shares, logits, plan_resize(SIZE, SIZE, SIZE, SIZE), prompt)


def test_a_point_picks_the_mask_that_holds_it_and_points_away_forbid_others():
    logits = masks((0, 0, 8, 8), (8, 8, 16, 16), (0, 0, 16, 16))
    prompt = Prompt.read([(12, 12)], [(2, 2)], [], SIZE)
    assert torch.equal(picked(logits, prompt).mask, logits[1] > 0)
    both = Prompt.read([(12, 12), (2, 2)], [], [], SIZE)
    assert torch.equal(picked(logits, both).mask, logits[2] > 0)


def test_a_box_picks_the_mask_that_overlaps_it_most():
    logits = masks((0, 0, 8, 8), (4, 4, 16, 16), (0, 0, 16, 16))
    assert torch.equal(picked(logits, Prompt.read([], [], [(0, 0, 9, 8)], SIZE)).mask, logits[0] > 0)
    assert torch.equal(picked(logits, Prompt.read([], [], [(0, 0, 16, 15)], SIZE)).mask, logits[2] > 0)


def test_unsure_masks_and_masks_of_no_object_lose():
    logits = masks((0, 0, 8, 8), (0, 0, 10, 10))
    logits[0] = logits[0].clamp(max=0.1)
    shares = torch.tensor([[0.5, 0.4, 0.1], [0.5, 0.4, 0.1]])
    prompt = Prompt.read([(2, 2)], [], [], SIZE)
    assert torch.equal(picked(logits, prompt, shares).mask, logits[1] > 0)
    shares[1] = torch.tensor([0.005, 0.005, 0.99])
    assert torch.equal(picked(logits, prompt, shares).mask, logits[0] > 0)


def test_names_count_all_masks_by_what_they_cover():
    logits = masks((0, 0, 8, 8), (0, 0, 8, 8), (8, 8, 16, 16))
    shares = torch.tensor([[0.5, 0.45, 0.05], [0.0, 0.9, 0.1], [1.0, 0.0, 0.0]])
    scores = picked(logits, Prompt.read([(2, 2)], [], [], SIZE), shares).scores
    torch.testing.assert_close(scores, torch.tensor([0.5, 1.35]), atol=0.02, rtol=0)


def test_regions_of_labels():
    labels = np.zeros(SIZE, np.int32)
    labels[:4, :4] = labels[10:, 10:] = 1
    one = of_labels(labels, Prompt.read([(1, 1)], [], [], SIZE))
    assert one.sum() == 16 and one[:4, :4].all()
    two = of_labels(labels, Prompt.read([(1, 1), (12, 12)], [], [], SIZE))
    assert two.sum() == 16 + 36
    assert np.array_equal(of_labels(labels, Prompt.read([(1, 1), (12, 12)], [(15, 15)], [], SIZE)), one)
    assert np.array_equal(of_labels(labels, Prompt.read([], [], [(0, 0, 5, 4)], SIZE)), one)


@pytest.mark.parametrize(
    ("points", "boxes", "said"),
    [
        ([], [], "nothing is pointed at"),
        ([(16, 0)], [], "row 16"),
        ([], [(4, 4, 2, 8)], "left < right"),
        ([], [(0, 0, 4, 4), (0, 0, 5, 5)], "expected one"),
    ],
)
def test_what_points_nowhere_is_refused(points, boxes, said):
    with pytest.raises(InputError, match=said):
        Prompt.read(points, [], boxes, SIZE)


@pytest.mark.parametrize("name", ["mini", "sclip/mini"])
def test_an_encoded_image_is_pointed_at(name, monkeypatch):
    segmenter = ovseg.load(name)
    photo = segmenter.encode(make_photo(96, 72))
    monkeypatch.setattr(segmenter.model, "encode", None)  # the image is not encoded again
    found = photo.segment_at([(30, 40)], classes=["sky", "grass", "bus"], away=[(71, 95)])
    assert found.mask.shape == (72, 96) and found.mask.dtype == bool
    assert {own for own, _ in found.names} == {"sky", "grass", "bus"} and found.name == found.names[0][0]
    scores = [score for _, score in found.names]
    assert scores == sorted(scores, reverse=True)
    photo.__dict__["segmenter"] = None
    with pytest.raises(ConfigError, match="without a model"):
        photo.segment_at([(1, 1)], classes=["sky"])
