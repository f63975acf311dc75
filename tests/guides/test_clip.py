from __future__ import annotations

import pytest
import torch

from ovseg.clip import Need, ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError, UnknownNameError
from ovseg.guides import build_guide, unit_patches


@pytest.fixture(scope="module")
def clip():
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 4, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    return ViTClip.from_config(config, build_model(config, "test").state_dict(), "test")


@pytest.mark.parametrize(
    ("name", "depth", "layer"),
    [("clip", 12, 8), ("clip", 8, 5), ("clip:0.5", 12, 5), ("clip:0.01", 12, 0), ("clip:0.99", 12, 10), ("clip", 2, 0)],
)
def test_share_names_a_block_before_the_last(name, depth, layer):
    assert build_guide(name).needs_of(depth) == Need(hidden=(layer,))


def test_tokens_are_those_that_leave_the_block(clip):
    guide = build_guide("clip:0.5")
    context = clip.dense(torch.randn(2, 3, 32, 48), need=guide.needs_of(4)).context
    found = guide(context)
    assert found.shape == (2, 32, 4, 6)
    torch.testing.assert_close(found[:, :, 1, 2], context.hidden[1][:, 1 + 6 + 2])


def test_facets_are_those_of_the_block_that_follows(clip):
    guides = {facet: build_guide("clip:0.5", facet) for facet in ("query", "key", "value", "query+key")}
    context = clip.dense(torch.randn(1, 3, 32, 48), need=guides["key"].needs_of(4)).context
    found = {facet: guide(context) for facet, guide in guides.items()}
    torch.testing.assert_close(found["query"] + found["key"], found["query+key"])
    value = clip.blocks[2].qkv(context.hidden[1])[2]
    torch.testing.assert_close(found["value"][0, :, 3, 5], value[0, :, -1].flatten())


def test_unit_patches_are_single_precision():
    unit = unit_patches(torch.randn(1, 5, 2, 3).half())
    assert unit.dtype == torch.float32 and unit.shape == (1, 6, 5)
    torch.testing.assert_close(unit.norm(dim=-1), torch.ones(1, 6))


def test_a_guide_stays_in_evaluation_mode_and_is_returned_as_it_is():
    guide = build_guide("clip:0.5")
    assert not guide.train().training
    assert build_guide(guide) is guide and guide.name == "clip:0.5"


@pytest.mark.parametrize(
    ("name", "facet", "error", "message"),
    [
        ("clop", "token", UnknownNameError, "unknown guide 'clop'; did you mean clip"),
        ("clip:1.5", "token", ConfigError, "guide 'clip:1.5' names no share of the depth"),
        ("clip:half", "token", ConfigError, "guide 'clip:half' names no share of the depth"),
        ("clip", "keys", ConfigError, r"guide facet is 'keys'; expected one of token, query, key, value, query\+key"),
    ],
)
def test_mistakes(name, facet, error, message):
    with pytest.raises(error, match=message):
        build_guide(name, facet)
