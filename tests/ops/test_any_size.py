"""Resizing in closed forms gives what the package's own matrices, Pillow and windows give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg.ops import any_size
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.windows import plan_windows

SIDES = st.integers(1, 60)


@settings(max_examples=50, deadline=None)
@given(SIDES, SIDES)
def test_the_matrix_is_that_of_bilinear_resizing(inputs: int, outputs: int) -> None:
    own, usual = any_size.linear_matrix(inputs, outputs), bilinear_matrix(inputs, outputs)
    torch.testing.assert_close(own, usual, rtol=0, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 2**31))
def test_photographs_are_resized_as_pillow_does(high: int, wide: int, rows: int, columns: int, seed: int) -> None:
    photo = np.random.default_rng(seed).integers(0, 256, (high, wide, 3), np.uint8)
    expected = np.asarray(Image.fromarray(photo).resize((columns, rows), Image.Resampling.BILINEAR))
    found = any_size.resize_photo(torch.from_numpy(photo), (rows, columns))[0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1  # Pillow's weights are whole numbers
    assert np.abs(found - expected).mean() <= 0.05


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(1, 12))
def test_windows_of_pooling_are_those_of_pytorch(high: int, wide: int, rows: int, columns: int) -> None:
    maps = torch.randn(2, 3, high, wide, generator=torch.Generator().manual_seed(high * wide))
    expected = torch.nn.functional.adaptive_max_pool2d(maps, (rows, columns))
    torch.testing.assert_close(any_size.max_pool(maps, (rows, columns)), expected, rtol=0, atol=0)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, (rows, columns))
    torch.testing.assert_close(any_size.mean_pool(maps, (rows, columns)), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", ["none", "corner", "even"])
@pytest.mark.parametrize("resize", ["once", "twice"])
@pytest.mark.parametrize(("crop", "stride"), [(0, 0), (16, 8), (16, 16), (20, 7)])
@pytest.mark.parametrize("size", [(16, 16), (20, 37), (41, 24), (9, 33)])
def test_windows_are_those_of_the_plan(
    padding: str, resize: str, crop: int, stride: int, size: tuple[int, int]
) -> None:
    patch, output = 8, (25, 31)
    plan = plan_windows(size, patch, crop, stride, padding, 0, resize)
    rows, columns = (
        any_size.AnyAxis(axis.length, crop, stride, axis.before, axis.after, axis.stretch, axis.direct)
        for axis in (plan.rows, plan.columns)
    )
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(any_size.cut(image, rows, columns), plan.cut(image), rtol=0, atol=0)
    scores = torch.rand(len(plan), 2, plan.rows.cells, plan.columns.cells, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(any_size.join(scores, rows, columns), plan.join(scores)[0], rtol=0, atol=0)
    for own, usual, side, cells in zip(
        (rows, columns), plan.matrices(output), output, (plan.rows.cells, plan.columns.cells), strict=True
    ):
        torch.testing.assert_close(own.matrix(side, cells), usual, rtol=0, atol=1e-6)
