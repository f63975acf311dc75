"""CLIP's tail with tokens of masks: the cheap form is the literal one, and what surrounds it."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.errors import ConfigError
from ovseg.meta_arch.san.recognition import pool_bias, run_patches, run_tail


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return ViTClip.from_folder(tiny_clip)


def embed(clip, images, table=None):
    return clip.tower.embed(images, "bicubic_by_grid", table)[0]


def cheap_tail(clip, tokens, blocks, biases, starts):
    return run_tail(starts, blocks, run_patches(clip, tokens, blocks, 0).seen, biases)


def literal_tail(clip, tokens, blocks, biases, starts):
    """All tokens in one sequence [masks; class; patches] under an additive mask of -100, as the original has it."""
    count, places = starts.shape[1], tokens.shape[1]
    sequence = torch.cat([starts, tokens], dim=1)
    for index, block in enumerate(blocks):
        bias = biases[index % len(biases)].expand(-1, block.heads, -1, -1)
        mask = torch.zeros(len(tokens), block.heads, count + places, count + places, dtype=tokens.dtype)
        mask[..., :count] = -100
        mask[..., range(count), range(count)] = 0
        mask[..., :count, count] = -100
        mask[..., :count, count + 1 :] = bias
        query, key, value = block.qkv(sequence)
        weights = (query @ key.mT * block.scale + mask).softmax(-1)
        sequence = sequence + block.project(weights @ value)
        sequence = sequence + block.feed_forward(sequence)
    return sequence[:, :count]


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("copies", [True, False])
def test_the_cheap_form_is_the_literal_one(clip, heads, layers, copies):
    generator = torch.Generator().manual_seed(heads + 10 * layers)
    images = torch.randn(2, 3, 40, 56, generator=generator)
    tokens = embed(clip, images)
    starts = tokens[:, :1].expand(-1, 6, -1) if copies else torch.randn(2, 6, 32, generator=generator)
    biases = [3 * torch.randn(2, heads, 6, 35, generator=generator) for _ in range(layers)]
    got = cheap_tail(clip, tokens, clip.blocks, biases, starts)
    torch.testing.assert_close(got, literal_tail(clip, tokens, clip.blocks, biases, starts), atol=2e-5, rtol=1e-5)


def test_gradients_are_those_of_the_literal_form(clip):
    tokens = embed(clip, torch.randn(1, 3, 32, 32))
    found = []
    for tail in (cheap_tail, literal_tail):
        bias, own = torch.ones(1, 2, 3, 16).requires_grad_(), tokens.clone().requires_grad_()
        tail(clip, own, clip.blocks, [bias * torch.arange(16)], own[:, :1].expand(-1, 3, -1)).square().sum().backward()
        found.append((bias.grad, own.grad))
    for cheap, literal in zip(*found, strict=True):
        torch.testing.assert_close(cheap, literal, atol=1e-4, rtol=1e-4)


def test_masks_do_not_see_each_other(clip):
    seen = run_patches(clip, embed(clip, torch.randn(1, 3, 32, 32)), clip.blocks, 1).seen
    bias, starts = torch.randn(1, 2, 5, 16), torch.randn(1, 5, 32)
    together = run_tail(starts, clip.blocks[1:], seen, [bias])
    alone = run_tail(starts[:, 2:3], clip.blocks[1:], seen, [bias[:, :, 2:3]])
    torch.testing.assert_close(together[:, 2:3], alone)


@pytest.mark.parametrize("front", [0, 1, 2])
def test_taps_are_the_tokens_of_clip_and_may_lie_in_the_tail(clip, front):
    tokens = embed(clip, torch.randn(1, 3, 40, 32))
    patches = run_patches(clip, tokens, clip.blocks, front, (0, 2))
    states = [tokens]
    for block in clip.blocks:
        states.append(block(states[-1]))
    assert sorted(patches.taps) == [0, 2] and len(patches.seen) == 2 - front
    torch.testing.assert_close(patches.tokens, states[front])
    for tap, kept in patches.taps.items():
        torch.testing.assert_close(kept, states[tap])
    for state, block, (key, value) in zip(states[front:], clip.blocks[front:], patches.seen, strict=False):
        torch.testing.assert_close(key, block.qkv(state)[1][:, :, 1:])
        torch.testing.assert_close(value, block.qkv(state)[2][:, :, 1:])


def test_the_last_block_does_not_run_for_patches_that_nobody_wants(clip, monkeypatch):
    tokens = embed(clip, torch.randn(1, 3, 32, 32))
    monkeypatch.setattr(clip.blocks[-1], "feed_forward", lambda tokens: pytest.fail("the last block ran"))
    run_patches(clip, tokens, clip.blocks, 1, (0, 1))


def test_a_table_of_ones_own_takes_the_place_of_clips(clip):
    images, own = torch.randn(1, 3, 32, 32), clip.tower.visual.positional_embedding
    table = torch.randn_like(own).requires_grad_()
    tokens = embed(clip, images, table)
    run_patches(clip, tokens, clip.blocks, 1).tokens.square().sum().backward()
    assert table.grad.abs().sum() > 0 and own.grad is None
    assert not torch.allclose(tokens, embed(clip, images))


@pytest.mark.parametrize("pooling", ["max", "avg", "bilinear", "bicubic"])
@pytest.mark.parametrize("grid", [(3, 3), (4, 5), (9, 2)])
def test_pooling(pooling, grid):
    bias = torch.randn(2, 3, 4, 6, 6)
    got = pool_bias(bias, grid, pooling)
    assert got.shape == (2, 3, 4, grid[0] * grid[1])
    if pooling == "max" and grid == (3, 3):
        torch.testing.assert_close(got.unflatten(3, grid)[..., 1, 2], bias[..., 2:4, 4:6].amax((-1, -2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tiny_clip, dtype):
    clip = ViTClip.from_folder(tiny_clip)
    images, bias = torch.randn(1, 3, 32, 32), torch.randn(1, 2, 4, 16)
    found = []
    for kind in (torch.float32, dtype):
        clip = clip.to(kind)
        patches = run_patches(clip, embed(clip, images), clip.blocks, 1)
        starts = patches.tokens[:, :1].expand(-1, 4, -1)
        found.append(run_tail(starts, clip.blocks[1:], patches.seen, [bias.to(kind)]))
    assert found[1].dtype == dtype
    assert (found[1].float() - found[0]).norm() < 0.05 * found[0].norm()


def test_mistakes(clip):
    with pytest.raises(ConfigError, match="got 3 attention biases for 2 blocks; expected 1 or 2"):
        run_tail(torch.zeros(1, 2, 32), clip.blocks, [], [torch.zeros(1, 1, 2, 16)] * 3)
    with pytest.raises(ConfigError, match="pooling of attention biases is 'nearest'; expected one of max"):
        pool_bias(torch.zeros(1, 1, 1, 4, 4), (2, 2), "nearest")
