"""Red circles: marked images go through CLIP; ensembles are means; captions choose the marked thing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError, InputError
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.redcircle import method as redcircle
from ovseg.recalibration.redcircle.method import RedCircle
from ovseg.recalibration.redcircle.visual_prompts import mark


@pytest.fixture(scope="module")
def clip() -> ViTClip:
    config = {
        "embed_dim": 16,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 24, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
    }
    torch.manual_seed(8)
    return ViTClip.from_config(config, build_model(config, "test").state_dict(), "test")


def test_the_embedding_is_that_of_the_marked_image(clip, monkeypatch):
    monkeypatch.setattr(redcircle, "_COPIES", 4)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (clip.mean, clip.std))
    rgb, boxes = torch.rand(2, 3, 32, 40), torch.tensor([[4.0, 4, 20, 20], [10, 2, 39, 30], [0, 0, 8, 8]])
    found = RedCircle(prompt="circle").encode_boxes(clip, (rgb - mean) / std, boxes)
    marked = (mark(rgb, boxes, "circle") - mean) / std
    plain = clip.dense(marked.flatten(0, 1), build_recalibration("clip"))
    expected = F.normalize(plain.cls, dim=-1).view(2, 3, -1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_ensemble_is_the_mean_of_its_views(clip):
    images, boxes = torch.randn(1, 3, 32, 32), torch.tensor([[40.0, 40, 200, 200]])
    views = ("circle", "circle_blur", "circle_grey")
    alone = [RedCircle(prompt=view).encode_boxes(clip, images, boxes, (320, 320)) for view in views]
    together = RedCircle(prompt="ensemble").encode_boxes(clip, images, boxes, (320, 320))
    torch.testing.assert_close(together, F.normalize(sum(alone), dim=-1))


@pytest.mark.parametrize("prompt", ["crop", "blur", "grey"])
def test_dense_features_of_every_prompt(clip, prompt):
    features = RedCircle(prompt=prompt, scales=(0.5,)).encode(clip, torch.randn(2, 3, 32, 48)).features
    assert features.shape == (2, 16, 4, 6) and features.isfinite().all()
    assert (features[..., 0, 0] - features[..., -1, -1]).abs().max() > 1e-4


def test_mistakes(clip):
    with pytest.raises(ConfigError, match="prompt is 'square'; expected one of circle, circle_blur"):
        build_recalibration("redcircle", prompt="square")
    with pytest.raises(ConfigError, match="scales are"):
        build_recalibration("redcircle", scales=[])
    with pytest.raises(InputError, match="box 0 is"):
        RedCircle().encode_boxes(clip, torch.randn(1, 3, 32, 32), torch.tensor([[9.0, 0, 1, 9]]))
