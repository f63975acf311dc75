"""PAMR against a plain reading of its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ConfigError
from ovseg.refinement import affinity, pamr

OFFSETS = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def look(maps, dy, dx):
    """Return maps seen at an offset, the border repeated, by indexing."""
    height, width = maps.shape[2:]
    rows = (torch.arange(height) + dy).clamp(0, height - 1)
    columns = (torch.arange(width) + dx).clamp(0, width - 1)
    return maps[:, :, rows][:, :, :, columns]


def reference(image, mask, steps, dilations):
    if mask.shape[2:] != image.shape[2:]:
        mask = F.interpolate(mask, image.shape[2:], mode="bilinear", align_corners=True)
    offsets = [(d * dy, d * dx) for d in dilations for dy, dx in OFFSETS]
    neighbours = torch.stack([look(image, *offset) for offset in offsets], dim=2)
    centres = image[:, :, None].expand(-1, -1, len(dilations), -1, -1)
    sigma = torch.cat([neighbours, centres], dim=2).std(2, unbiased=True)
    distance = (image[:, :, None] - neighbours).abs() / (1e-8 + 0.1 * sigma[:, :, None])
    alpha = (-distance.mean(1)).softmax(1)
    for _ in range(steps):
        mask = sum(alpha[:, p, None] * look(mask, *offset) for p, offset in enumerate(offsets))
    return mask, alpha


@settings(max_examples=15, deadline=None)
@given(
    channels=st.integers(1, 5),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    mask_size=st.tuples(st.integers(1, 19), st.integers(1, 19)),
    dilations=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    steps=st.integers(0, 3),
)
def test_equals_definition(channels, batch, size, mask_size, dilations, steps):
    torch.manual_seed(0)
    image, mask = torch.randn(batch, channels, *size), torch.randn(batch, 2, *mask_size)
    expected, alpha = reference(image, mask, steps, dilations)
    torch.testing.assert_close(affinity(image, dilations), alpha, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(pamr(image, mask, steps, dilations), expected, atol=1e-5, rtol=1e-3)


def test_flat_regions_share_equally():
    weights = affinity(torch.full((1, 3, 9, 9), 0.7), (1, 2))
    torch.testing.assert_close(weights, torch.full((1, 16, 9, 9), 1 / 16))


def test_range_never_grows_and_the_mask_is_left_alone():
    mask = torch.rand(1, 4, 20, 30)
    before = mask.clone()
    refined = pamr(torch.randn(1, 3, 20, 30), mask, 5, (8, 16))
    assert refined.min() >= mask.min() - 1e-5
    assert refined.max() <= mask.max() + 1e-5
    assert torch.equal(mask, before)


def test_half_precision_input_runs_in_float32():
    image, mask = torch.randn(1, 3, 12, 12), torch.randn(1, 2, 12, 12)
    refined = pamr(image.half(), mask.half(), 2, (1, 2))
    assert refined.dtype == torch.float32
    torch.testing.assert_close(refined, pamr(image, mask, 2, (1, 2)), atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("steps", "dilations"), [(-1, (8,)), (1, ()), (1, (0, 2))])
def test_wrong_settings(steps, dilations):
    with pytest.raises(ConfigError, match="pamr_"):
        pamr(torch.randn(1, 3, 8, 8), torch.randn(1, 1, 8, 8), steps, dilations)
