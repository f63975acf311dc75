"""ITACLIP against its definition with all maps in memory, at other depths than the authors'."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import Need, ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.itaclip import ITACLIP


def make_clip(layers: int) -> ViTClip:
    config = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": layers, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1},
    }
    torch.manual_seed(layers)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), f"depth {layers}")


def by_definition(clip: ViTClip, images: torch.Tensor, middle: list[int], attn_self: bool) -> torch.Tensor:
    """Return the features (B, 1 + N, D): every map is made and stored, and the last block is taken apart."""
    plain = build_recalibration("clip", pos_resize="bicubic_offset")
    hidden = clip.dense(images, plain, Need(hidden=tuple(range(clip.depth - 1)))).context.hidden
    hidden[-1] = clip.tower.embed(images, "bicubic_offset")[0]

    def weights(index: int) -> torch.Tensor:
        block = clip.blocks[index]
        q, k, _ = block.qkv(hidden[index - 1])
        pairs = [(q, q), (k, k)] if attn_self else [(q, k)]
        return sum((a @ b.mT * block.scale).softmax(-1) for a, b in pairs)

    last = clip.depth - 1
    mixed = 0.5 * weights(last) + 0.5 * sum(weights(index) for index in middle) / len(middle)
    tokens = hidden[last - 1]
    tokens = tokens + clip.blocks[last].project(mixed @ clip.blocks[last].qkv(tokens)[2])
    return clip.tower.head(tokens)[0]


@pytest.mark.parametrize("attn_self", [True, False])
@pytest.mark.parametrize(
    ("layers", "options", "middle"),
    [
        (3, {}, [1]),
        (6, {}, [3, 4]),
        (12, {}, [6, 7, 9]),
        (6, {"mid_layers": (0, 2, -2)}, [0, 2, 4]),  # the first block too, which sees the embedded patches
        (6, {"mid_layers": (0.5, 2, -4)}, [2]),  # three names of one block
    ],
)
def test_equals_the_definition(layers, options, middle, attn_self):
    clip, images = make_clip(layers), torch.randn(2, 3, 43, 24)
    method = build_recalibration("itaclip", attn_self=attn_self, **options)
    assert method.middle(layers) == middle
    with torch.no_grad():
        dense = clip.dense(images, method)
        expected = by_definition(clip, images, middle, attn_self)
    assert dense.grid == (5, 3)
    torch.testing.assert_close(dense.features.flatten(2).mT, expected[:, 1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dense.cls, expected[:, 0], atol=1e-5, rtol=1e-4)


def test_the_layers_of_deeper_models():
    method = ITACLIP()
    assert method.middle(24) == [13, 15, 19]
    assert method.blocks_of(24) == 11
    assert build_recalibration("itaclip", mid_layers=[6, 7, 9]).middle(12) == method.middle(12)


def test_the_last_feed_forward_is_an_option():
    clip, images = make_clip(4), torch.randn(1, 3, 32, 32)
    found = [clip.dense(images, build_recalibration("itaclip", feed_forward=kept)).features for kept in (True, False)]
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "layers", "message"),
    [
        ({}, 2, "name the last of 2 blocks; expected earlier blocks only"),
        ({"mid_layers": (1, -1)}, 6, "mid_layers 1, -1 name the last of 6 blocks"),
        ({"mid_layers": (1, 9)}, 6, "layer 9 names no block of 6"),
    ],
)
def test_layers_that_are_not_there(options, layers, message):
    with pytest.raises(ConfigError, match=message):
        make_clip(layers).handed_over(build_recalibration("itaclip", **options))


def test_no_layer():
    with pytest.raises(ConfigError, match="mid_layers is empty; expected one block or more"):
        build_recalibration("itaclip", mid_layers=[])
