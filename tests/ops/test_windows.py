"""Windows and their matrices against cutting, interpolating and averaging step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg.errors import ConfigError
from ovseg.labelling.scores import upsample
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.windows import PADDINGS, RESIZES, plan_windows


@settings(max_examples=60, deadline=None)
@given(inputs=st.integers(1, 80), outputs=st.integers(1, 300))
def test_matrix_is_interpolate(inputs, outputs):
    line = torch.randn(1, 1, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.interpolate(line, outputs, mode="linear", align_corners=False)[0, 0]
    matrix = bilinear_matrix(inputs, outputs)
    torch.testing.assert_close(matrix @ line[0, 0], expected, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(matrix.sum(1), torch.ones(outputs, dtype=torch.float64))


def by_steps(patches, size, output, patch, crop, stride, padding, resize):
    """Return what the originals compute, window by window: sums, counts, resize."""
    height, width = size
    if not crop and padding == "none" and resize == "once":  # SCLIP, ITACLIP: a whole image goes to the output at once
        return F.interpolate(patches, output, mode="bilinear")[0]
    window_h, window_w = min(crop or height, height), min(crop or width, width)
    total, count = torch.zeros(1, patches.shape[1], *size), torch.zeros(size)
    index = 0
    for i in range(max(height - window_h + stride - 1, 0) // stride + 1):
        for j in range(max(width - window_w + stride - 1, 0) // stride + 1):
            bottom, right = min(i * stride + window_h, height), min(j * stride + window_w, width)
            top, left = max(bottom - window_h, 0), max(right - window_w, 0)
            scores, pad_h, pad_w = patches[index : index + 1], -window_h % patch, -window_w % patch
            if padding == "even":
                scores = F.interpolate(scores, (window_h + pad_h, window_w + pad_w), mode="bilinear")
                up, before = pad_h // 2, pad_w // 2
                scores = scores[..., up : up + window_h, before : before + window_w]
            else:
                scores = F.interpolate(scores, (window_h, window_w), mode="bilinear")
            total[..., top:bottom, left:right] += scores
            count[top:bottom, left:right] += 1
            index += 1
    assert index == len(patches)
    assert count.min() >= 1
    return F.interpolate(total / count, output, mode="bilinear")[0]


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(16, 90), st.integers(16, 90)),
    output=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    crop=st.sampled_from([0, 16, 30, 48, 200]),
    stride=st.integers(5, 16),
    padding=st.sampled_from(PADDINGS),
    multiple=st.sampled_from([0, 12, 24]),
    resize=st.sampled_from(RESIZES),
)
def test_matrices_are_the_composition(size, output, crop, stride, padding, multiple, resize):
    plan = plan_windows(size, 8, crop, stride, padding, multiple, resize)
    windows = plan.cut(torch.zeros(1, 3, *size))
    grid = (windows.shape[2] // 8, windows.shape[3] // 8)
    patches = torch.randn(len(windows), 2, *grid, generator=torch.Generator().manual_seed(1))
    rows, columns = plan.matrices(output)
    assert len(plan) == len(windows)
    got = upsample(plan.join(patches)[0], rows, columns)
    expected = by_steps(patches, size, output, multiple or 8, crop, stride, padding, resize)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_batches_are_cut_and_joined_image_by_image():
    images = torch.randn(2, 3, 40, 56)
    plan = plan_windows((40, 56), 8, 24, 16)
    windows = plan.cut(images)
    assert windows.shape == (2 * 2 * 3, 3, 24, 24)
    assert torch.equal(windows[6], images[1, :, :24, :24])
    assert torch.equal(windows[11], images[1, :, 16:, 32:])
    scores = torch.arange(12.0)[:, None, None, None].expand(-1, 5, 3, 3)
    joined = plan.join(scores)
    assert joined.shape == (2, 5, 6, 9)
    assert joined[1, 0, 3, 8] == 11
    assert joined[0, 4, 0, 3] == 1


def test_padding_puts_zeros_where_the_originals_do():
    images = torch.ones(1, 3, 20, 21)
    corner = plan_windows((20, 21), 8, padding="corner").cut(images)
    even = plan_windows((20, 21), 8, padding="even").cut(images)
    assert corner.shape == even.shape == (1, 3, 24, 24)
    assert corner[0, 0, :20, :21].min() == 1
    assert corner.sum() == even.sum() == images.sum()
    assert even[0, 0, 2:22, 1:22].min() == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": 32, "stride": 0}, "stride >= 1"),
        ({"crop": -1, "stride": 8}, "crop >= 0"),
        ({"crop": 16, "stride": 17}, "leaves gaps"),
        ({"crop": 4, "stride": 4}, "holds no patch of 8"),
        ({"resize": "never"}, "window resize is 'never'; expected one of once, twice"),
        ({"padding": "full"}, "window padding is 'full'; expected one of none, corner, even"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        plan_windows((64, 64), 8, **settings)


@settings(max_examples=40, deadline=None)
@given(inputs=st.integers(1, 80), outputs=st.integers(1, 300))
def test_matrix_with_corners_is_interpolate(inputs, outputs):
    line = torch.randn(1, 1, inputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = F.interpolate(line, outputs, mode="linear", align_corners=True)[0, 0]
    torch.testing.assert_close(bilinear_matrix(inputs, outputs, True) @ line[0, 0], expected, atol=1e-9, rtol=1e-9)


def test_a_whole_image_with_corners_comes_by_way_of_its_size():
    plan, patches = plan_windows((40, 56), 8, corners=True), torch.randn(1, 3, 5, 7)
    whole = F.interpolate(patches, (40, 56), mode="bilinear", align_corners=True)
    expected = F.interpolate(whole, (63, 50), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(upsample(patches[0], *plan.matrices((63, 50))), expected, atol=1e-5, rtol=1e-4)
