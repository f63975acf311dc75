"""The side adapter beyond its golden cases: stages, grids, batches, gradients, precision, mistakes."""

from __future__ import annotations

import pytest
import torch

from ovseg.errors import ConfigError
from ovseg.meta_arch.san.side_adapter import SideAdapter, read_fusion

OPTIONS = {
    "clip_width": 20,
    "clip_heads": 4,
    "width": 24,
    "depth": 3,
    "heads": 3,
    "patch": 8,
    "image_size": 48,
    "queries": 5,
}
OPTIONS |= {"fusion": ("0->0", "2->1"), "supervised_blocks": (2, 3), "channels": 16, "hidden": 16}


def build(**changes):
    torch.manual_seed(0)
    return SideAdapter(**{**OPTIONS, **changes}).eval()


def inputs(batch=2, size=(48, 64), grid=(3, 4)):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, *size, generator=generator)
    return images, {tap: torch.randn(batch, 20, *grid, generator=generator) for tap in (0, 2)}


@pytest.mark.parametrize("layers", [1, 2])
def test_stages_and_shapes(layers):
    adapter = build(bias_layers=layers)
    assert adapter.taps == (0, 2)
    stages = adapter(*inputs(), all_stages=True)
    assert len(stages) == 2
    for stage in stages:
        assert stage.masks.shape == (2, 5, 6, 8) and stage.features.shape == (2, 24, 6, 8)
        assert [bias.shape for bias in stage.biases] == [(2, 4, 5, 6, 8)] * layers
    (last,) = adapter(*inputs())
    torch.testing.assert_close(last.masks, stages[1].masks)


@pytest.mark.parametrize("size", [(48, 48), (8, 8), (61, 90), (32, 72)])
def test_any_size(size):
    (stage,) = build()(*inputs(size=size, grid=(1, 2)))
    assert stage.masks.shape[2:] == (size[0] // 8, size[1] // 8) and stage.masks.isfinite().all()


def test_position_embeddings_are_resized_by_count_alone():
    adapter = build()
    images, taps = inputs(size=(32, 72))  # 4 x 9 patches, as many as the 6 x 6 that are stored
    with torch.no_grad():
        before = adapter(images, taps)[0].masks
        adapter.table_grid = (4, 9)
        torch.testing.assert_close(adapter(images, taps)[0].masks, before)


def test_batch_is_singles():
    adapter, (images, taps) = build(), inputs()
    together = adapter(images, taps)[0]
    for index in range(2):
        alone = adapter(images[index, None], {tap: value[index, None] for tap, value in taps.items()})[0]
        torch.testing.assert_close(together.masks[index], alone.masks[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.biases[0][index], alone.biases[0][0], atol=1e-5, rtol=1e-5)


def test_every_parameter_learns():
    adapter = build().train()
    stages = adapter(*inputs(), all_stages=True)
    sum(stage.masks.square().mean() + stage.biases[0].square().mean() for stage in stages).backward()
    assert [name for name, value in adapter.named_parameters() if value.grad is None or not value.grad.any()] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    images, taps = inputs()
    exact = build()(images, taps)[0].masks
    half = build().to(dtype)(images.to(dtype), {tap: value.to(dtype) for tap, value in taps.items()})[0].masks
    assert half.dtype == dtype and (half.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "24 wide with 5 heads"),
        ({"supervised_blocks": (1, 2)}, "expected numbers from 1 with 3, the last"),
        ({"fusion": ("0->0", "1->0")}, r"taps go to blocks \[0, 0\]; expected different ones from 0 to 3"),
        ({"fusion": ("0->4",)}, "from 0 to 3"),
    ],
)
def test_mistakes(changes, message):
    with pytest.raises(ConfigError, match=message):
        build(**changes)


def test_biases_may_follow_the_masks_without_a_gradient_to_them():
    plain, follows = build(), build(mask_bias=2.0)
    follows.load_state_dict(plain.state_dict())
    (one, *_), (two, *_) = plain(*inputs()), follows(*inputs())
    torch.testing.assert_close(two.biases[0], one.biases[0] + 2 * one.masks[:, None])
    pixels = follows.mask_decoder.pix_mlp.layers[0].weight
    assert torch.autograd.grad(two.biases[0].sum(), pixels, allow_unused=True) == (None,)


def test_queries_start_on_a_grid():
    adapter = build(grid_start=1.0, queries=4, image_size=64)
    near = adapter.query_pos_embed[0] @ adapter.pos_embed[0].T  # (4 queries, 8 x 8 patches)
    centres = [(row * 8 + column, row // 4 * 2 + column // 4) for row in (1, 2, 5, 6) for column in (1, 2, 5, 6)]
    assert [int(near[:, patch].argmax()) for patch, _ in centres] == [query for _, query in centres]
    query, key, _ = adapter.blocks[1].qkv.weight.chunk(3)
    torch.testing.assert_close(query, key)
    assert not torch.equal(adapter.blocks[0].qkv.weight, adapter.blocks[1].qkv.weight)
    adapter.load_state_dict(build(queries=4, image_size=64).state_dict())
    (one, *_), (two, *_) = adapter(*inputs()), build(queries=4, image_size=64)(*inputs())
    torch.testing.assert_close(one.masks, two.masks)


@pytest.mark.parametrize(("queries", "width"), [(1, 24), (5, 24), (24, 18), (7, 30)])
def test_a_grid_for_any_number_of_queries(queries, width):
    adapter = build(grid_start=0.5, queries=queries, width=width)
    places = adapter.query_pos_embed[0]
    assert places.shape == (queries, width) and 0 < places.abs().max() <= 0.5
    assert len(torch.unique(places, dim=0)) == queries


def test_fusion():
    assert read_fusion(("0->0", " 6 -> 1")) == {0: 0, 6: 1}
