"""Foveal attention: equal to one pass per box with a bias in every row, at any depth; masks; what is refused."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError, InputError
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.falip import foveal
from ovseg.recalibration.falip.method import FALIP


def make(layers: int, pool_type: str = "tok") -> ViTClip:
    vision = {"image_size": 48, "patch_size": 8, "layers": layers, "width": 24, "head_width": 8, "pool_type": pool_type}
    text = {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1}
    config = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    torch.manual_seed(6)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


def literal(clip: ViTClip, image: torch.Tensor, bias: torch.Tensor, first: int) -> torch.Tensor:
    """Return the embedding (D,) of one region as the paper computes it: a full pass with an (N, N) bias."""
    tokens, _ = clip.tower.embed(image[None], "bicubic_offset")
    matrix = torch.zeros(tokens.shape[1], tokens.shape[1])
    matrix[0, 1:] = bias.flatten()
    for index, block in enumerate(clip.blocks):
        query, key, value = block.qkv(tokens)
        scores = query @ key.mT * block.scale + (matrix if index >= first else 0)
        tokens = tokens + block.project(scores.softmax(-1) @ value)
        tokens = tokens + block.feed_forward(tokens)
    return clip.tower.head(tokens)[1][0]


@pytest.mark.parametrize(
    ("layers", "start", "first"), [(2, 8 / 12, 1), (3, 8 / 12, 2), (6, 8 / 12, 4), (6, 1, 1), (5, -2, 3)]
)
def test_equals_one_full_pass_per_box(layers, start, first, monkeypatch):
    monkeypatch.setattr(foveal, "_COPIES", 4)  # several groups of regions
    clip, images = make(layers), torch.randn(2, 3, 48, 64)
    boxes = torch.tensor([[0, 0, 64, 48], [5, 5, 30, 20.5], [40, 8, 63, 47]])
    method = FALIP(start=start, value=4.0)
    found = method.encode_boxes(clip, images, boxes)
    biases = method.bias(boxes, (48, 64), (48, 64), 8)
    expected = torch.stack([torch.stack([literal(clip, image, bias, first) for bias in biases]) for image in images])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (found[:, 1] - found[:, 2]).abs().max() > 1e-3


def test_boxes_may_be_given_in_pixels_of_the_photograph():
    clip, images, method = make(3), torch.randn(1, 3, 48, 48), FALIP(value=2.0)
    boxes = torch.tensor([[10.0, 20, 200, 60]])
    own = boxes * torch.tensor([48 / 300, 48 / 100, 48 / 300, 48 / 100])
    photograph = method.encode_boxes(clip, images, boxes, size=(100, 300))
    torch.testing.assert_close(photograph, method.encode_boxes(clip, images, own))


def test_a_mask_is_a_flat_box():
    clip, images, method = make(3), torch.randn(1, 3, 48, 48), FALIP(value=2.0)
    masks = torch.zeros(2, 96, 96, dtype=torch.bool)
    masks[0, 16:40, 32:40] = True  # 2 x 1 patches: of these the bowl is flat too
    found = method.encode_masks(clip, images, masks)
    box = method.encode_boxes(clip, images, torch.tensor([[17.0, 9, 20, 20]]))
    torch.testing.assert_close(found[:, 0], box[:, 0])
    torch.testing.assert_close(found[:, 1], clip.dense(images, method).cls)  # an empty mask changes nothing


def test_dense_features_differ_where_boxes_do():
    clip, images = make(3), torch.randn(1, 3, 40, 64)
    features = FALIP(value=5.0, scales=(0.5,)).encode(clip, images).features
    assert features.shape == (1, 16, 5, 8)
    assert (features[..., 0, 0] - features[..., -1, -1]).abs().max() > 1e-3
    whole = FALIP(value=5.0, scales=(1.0,)).encode(clip, images).features
    torch.testing.assert_close(whole, whole[..., :1, :1].expand_as(whole))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"residual": False}, "leave residual and feed_forward at true"),
        ({"sigma": 0.0}, "sigma is 0.0; expected at least"),
        ({"scales": [2.0]}, "scales are .* expected"),
        ({"start": "late"}, "start is 'late'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        build_recalibration("falip", **options)


@pytest.mark.parametrize(
    ("start", "message"), [(0, "start 0 means block 0 of 3"), (1.0, "block 3 of 3"), (7, "layer 7")]
)
def test_a_start_that_is_not_there(start, message):
    with pytest.raises(ConfigError, match=message):
        FALIP(start=start).encode_boxes(make(3), torch.randn(1, 3, 48, 48), torch.tensor([[0.0, 0, 9, 9]]))


def test_what_cannot_be_encoded():
    with pytest.raises(ConfigError, match="use one that pools by its class token"):
        FALIP().encode_boxes(make(3, "avg"), torch.randn(1, 3, 48, 48), torch.tensor([[0.0, 0, 9, 9]]))
    with pytest.raises(InputError, match="box 0 is"):
        FALIP().encode_boxes(make(3), torch.randn(1, 3, 48, 48), torch.tensor([[9.0, 0, 1, 9]]))
