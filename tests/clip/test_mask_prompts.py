"""Mask prompts stand for the patches of a crop that its mask does not touch."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from ovseg.clip.mask_prompts import MaskPrompts, kept_patches
from ovseg.errors import ConfigError, InputError, WeightsError
from tests.clip.towers import TOWERS


@pytest.fixture(scope="module")
def vit():
    return TOWERS["ViT (OpenAI, LAION, MetaCLIP, DFN)"](3)


def crops_of(vit, count):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, vit.image_size, vit.image_size, generator=generator)


def prompts_of(vit, depth):
    found = MaskPrompts.for_clip(vit, depth)
    torch.nn.init.normal_(found.embedding, generator=torch.Generator().manual_seed(1))
    return found


@torch.no_grad()
def test_without_masks_or_prompts_it_is_clip(vit):
    crops = crops_of(vit, 2)
    plain, blank = vit.dense(crops).cls, torch.zeros(2, 1, vit.image_size, vit.image_size)
    torch.testing.assert_close(prompts_of(vit, 2)(vit, crops), plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(prompts_of(vit, 2)(vit, crops, blank + 1), plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(MaskPrompts.for_clip(vit, 0)(vit, crops, blank), plain, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_what_a_mask_does_not_touch_does_not_matter(vit):
    crops, masks = crops_of(vit, 2), torch.zeros(2, 1, vit.image_size, vit.image_size)
    masks[:, :, : vit.patch_size, : vit.patch_size + 1] = 1
    assert kept_patches(masks, vit.patch_size).sum(1).tolist() == [2, 2]
    other = crops.clone()
    other[:, :, vit.patch_size :] = 0
    prompts = prompts_of(vit, 3)
    torch.testing.assert_close(prompts(vit, crops, masks), prompts(vit, other, masks))
    assert not torch.allclose(prompts(vit, crops, masks), prompts(vit, crops), atol=1e-3)
    torch.testing.assert_close(prompts(vit, crops[:1], masks[:1]), prompts(vit, crops, masks)[:1], atol=1e-5, rtol=1e-4)
    assert prompts(vit, crops[:0], masks[:0]).shape == (0, vit.embed_dim)


def test_prompts_learn_through_a_frozen_clip(vit):
    prompts, masks = prompts_of(vit, 3), torch.zeros(1, 1, vit.image_size, vit.image_size)
    masks[..., 0, 0] = 1
    prompts(vit, crops_of(vit, 1), masks).sum().backward()
    assert bool((prompts.embedding.grad[:, 1:].abs().sum((1, 2)) > 0).all()) and not prompts.embedding.grad[:, 0].any()


def test_mistakes_are_told(vit):
    with pytest.raises(ConfigError, match="blocks"):
        MaskPrompts.for_clip(vit, 9)
    with pytest.raises(InputError, match="patches"):
        prompts_of(vit, 1)(vit, crops_of(vit, 1), torch.ones(1, 1, vit.patch_size, vit.patch_size))
    with pytest.raises(ConfigError, match="vision transformer"):
        MaskPrompts.for_clip(TOWERS["ResNet"](1), 1)


def test_prompts_are_read_as_they_were_written(vit, tmp_path):
    own = prompts_of(vit, 2)
    save_file({"embedding": own.embedding.detach()}, tmp_path / "prompts.safetensors")
    torch.testing.assert_close(MaskPrompts.read(tmp_path / "prompts.safetensors", vit).embedding, own.embedding)
    save_file({"other": own.embedding.detach()}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="other"):
        MaskPrompts.read(tmp_path / "other.safetensors", vit)
