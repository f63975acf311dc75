"""Rules for resizing position embeddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip.position import RULES, _resize_on_any_grid, resize_patches, resize_position

TABLE = torch.randn(37, 8, generator=torch.Generator().manual_seed(0))


def expected(rule: str, grid: tuple[int, int]) -> torch.Tensor:
    patches = TABLE[1:].reshape(1, 6, 6, 8).permute(0, 3, 1, 2)
    if rule == "bicubic_offset":
        factor = ((grid[0] + 0.1) / 6, (grid[1] + 0.1) / 6)
        patches = F.interpolate(patches, scale_factor=factor, mode="bicubic", recompute_scale_factor=False)
    else:
        patches = F.interpolate(patches, size=grid, mode=rule.split("_")[0], antialias="anti" in rule)
    return torch.cat([TABLE[:1], patches.permute(0, 2, 3, 1).reshape(-1, 8)])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", [(3, 5), (12, 7), (1, 40), (7, 6)])
def test_sampling(rule, grid):
    torch.testing.assert_close(resize_position(TABLE, (6, 6), grid, rule), expected(rule, grid))


@pytest.mark.parametrize("rule", RULES)
def test_same_grid_is_untouched(rule):
    assert resize_position(TABLE, (6, 6), (6, 6), rule) is TABLE


def test_guards_by_count_and_by_grid():
    for rule in ("bicubic", "bicubic_offset"):
        assert resize_position(TABLE, (6, 6), (4, 9), rule) is TABLE
    for rule in ("bilinear", "bicubic_antialias", "bicubic_by_grid"):
        torch.testing.assert_close(resize_position(TABLE, (6, 6), (4, 9), rule), expected(rule, (4, 9)))


def test_rules_differ():
    sampling = [rule for rule in RULES if rule != "bicubic_by_grid"]  # differs from bicubic by its guard alone
    found = [resize_position(TABLE, (6, 6), (4, 4), rule) for rule in sampling]
    for index, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-3 for other in found[index + 1 :])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_interpolates_in_float32(dtype):
    got = resize_position(TABLE.to(dtype), (6, 6), (9, 9), "bicubic_offset")
    assert got.dtype == dtype
    exact = resize_position(TABLE.to(dtype).float(), (6, 6), (9, 9), "bicubic_offset")
    assert torch.equal(got, exact.to(dtype))


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.endswith("antialias")])
@pytest.mark.parametrize("grid", [(14, 14), (7, 28), (10, 17), (28, 30), (3, 5), (1, 1)])
def test_a_graph_for_all_grids_resizes_alike(rule: str, grid: tuple[int, int]) -> None:
    table = torch.randn(196, 5, generator=torch.Generator().manual_seed(0))
    found = _resize_on_any_grid(table, (14, 14), grid, rule)
    torch.testing.assert_close(found, resize_patches(table, (14, 14), grid, rule), rtol=0, atol=1e-5)
