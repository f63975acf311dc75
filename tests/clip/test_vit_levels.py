"""A ViT in the place of a convolutional CLIP: levels of one grid, and embeddings of masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip import ViTClip
from ovseg.clip.vit_levels import ViTPyramid
from ovseg.errors import ConfigError
from ovseg.recalibration import build_recalibration


@pytest.fixture
def method():
    return build_recalibration("ClearCLIP", model_type="MaskCLIP")


@pytest.fixture
def clip(tiny_clip, method):
    return ViTPyramid.from_folder(tiny_clip).recalibrated(method)


def images(size=(64, 96), batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(3))


def test_levels_have_the_strides_of_a_convolutional_clip(clip):
    levels = clip.levels(images())
    strides = {"res2": 4, "res3": 8, "res4": 16, "res5": 32, "dense": 8}
    assert {name: tuple(x.shape) for name, x in levels.items()} == {
        name: (2, clip.channels[name], 64 // stride, 96 // stride) for name, stride in strides.items()
    }
    assert not any(level.requires_grad for level in levels.values())


def test_they_are_tokens_and_features_and_at_the_finest_pixels(clip, tiny_clip, method):
    levels, pixels = clip.levels(images()), images()
    plain = ViTClip.from_folder(tiny_clip)
    features = plain.dense(pixels, method).features
    torch.testing.assert_close(levels["dense"], F.normalize(features, dim=1))
    tokens, grid = plain.tower.embed(pixels, method.pos_resize)
    tokens = plain.blocks[0](tokens)[:, 1:]
    first, second = levels["res3"].split([32, 32], dim=1)
    torch.testing.assert_close(first, F.layer_norm(tokens, (32,)).mT.unflatten(2, grid))
    torch.testing.assert_close(second, F.layer_norm(features.movedim(1, -1), (32,)).movedim(-1, 1))
    for name in ("res2", "res4", "res5"):  # resizing keeps the mean, but for the borders
        torch.testing.assert_close(levels[name][:, :64].mean((2, 3)), levels["res3"].mean((2, 3)), atol=0.1, rtol=0)
    assert torch.equal(levels["res2"][:, 64, 3, 5], pixels[:, 0, 12, 20])


def test_every_block_runs_once(clip, monkeypatch):
    runs = []
    for block in clip.blocks:
        norm = block.module.ln_1.forward
        monkeypatch.setattr(block.module.ln_1, "forward", lambda x, norm=norm: runs.append(1) or norm(x))
    clip.levels(images())
    assert len(runs) == clip.depth


def test_a_mask_is_embedded_as_the_mean_of_its_patches(clip):
    dense = clip.levels(images())["dense"]
    logits = torch.full((2, 3, 8, 12), -1.0)
    logits[:, 0, 2, 5] = logits[:, 1, :, :4] = 1
    found = clip.pool(dense, logits)
    torch.testing.assert_close(found[:, 0], dense[:, :, 2, 5])
    torch.testing.assert_close(found[:, 1], dense[..., :4].mean((2, 3)))
    assert not found[:, 2].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(clip, dtype):
    wanted, found = clip.levels(images()), clip.to(dtype).levels(images())
    for name, level in found.items():
        assert level.dtype == dtype
        assert F.cosine_similarity(level.float().flatten(), wanted[name].flatten(), dim=0) > 0.99


def test_a_method_that_leaves_no_block_alone_is_refused(tiny_clip):
    with pytest.raises(ConfigError, match="changes all 2 blocks of tiny-clip; expected fewer"):
        ViTPyramid.from_folder(tiny_clip).recalibrated(build_recalibration("ClearCLIP", last_n_layers=2))
