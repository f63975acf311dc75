"""Image engineering: the views by definition, and their mix as the authors compute it, on features and whole maps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import ovseg
from ovseg.errors import ConfigError
from ovseg.labelling.views import blur, grey, mix, views
from ovseg.vocabulary import Vocabulary

PROTOCOL = {"SHORT_SIDE": 44, "WINDOW": 32, "STRIDE": 12, "IMAGE_ENGINEERING": 0.7}
WORDS = Vocabulary.parse(["cat", "sofa|couch", "window"])


def load(folder, **changes):
    segmenter = ovseg.load(folder, "cpu", overrides={"MODEL": {"PROTOCOL": {**PROTOCOL, **changes}}})
    return segmenter.model, segmenter.words(WORDS, templates="simple")


def as_the_authors(model, texts, images, size, share):
    """Mean the unit features of three views, upsample, mean the upsampled and flipped-back scores of two; mix."""

    def unit(pixels):
        return F.normalize(model.recalibration.encode(model.clip, pixels).features, dim=1)

    def maps(features):
        scores = torch.einsum("bchw,tc->bthw", features, texts)
        return F.interpolate(scores, size, mode="bilinear", align_corners=False)

    first = maps(torch.stack([unit(view) for view in (images, grey(images), blur(images))]).mean(0))
    second = torch.stack([maps(unit(images.flip(axis))).flip(axis) for axis in (2, 3)]).mean(0)
    return share * first + (1 - share) * second


def scores_of(model, words, images):
    """Return the patch scores of normalised images in each of their views."""
    return [model.recalibration.patch_scores(model.network(*view), words) for view in views(images, None)]


@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
@torch.no_grad()
def test_equals_the_authors_order_of_work(tiny_clip, size):
    (model, words), images = load(tiny_clip), torch.randn(2, 3, *size)
    seen = scores_of(model, words, images)
    maps = F.interpolate(mix(seen, 0.7), size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps, as_the_authors(model, words.embeddings, images, size, 0.7), atol=1e-6, rtol=1e-5)
    assert (mix(seen, 0.7) - seen[0]).abs().max() > 1e-3


@torch.no_grad()
def test_the_model_does_it_for_every_window(tiny_clip):
    (model, words), image = load(tiny_clip), torch.randint(0, 256, (3, 44, 60))
    plan = model.protocol.plan((44, 60), model.clip.patch_size)
    expected = plan.join(mix(scores_of(model, words, plan.cut(model.normalise(image[None]))), 0.7))[0]
    torch.testing.assert_close(
        model.patch_scores(model.encode([image]).images[0], words), expected, atol=1e-6, rtol=1e-5
    )
    alone, _ = load(tiny_clip, IMAGE_ENGINEERING=0.0)
    assert (alone.patch_scores(alone.encode([image]).images[0], words) - expected).abs().max() > 1e-3


def test_five_views_and_regions_turn_with_them():
    images, regions = torch.randn(2, 3, 20, 30), torch.arange(1200).view(2, 20, 30)
    seen = views(images, regions)
    found = mix([ids[:, None].float() for _, ids in seen], 0.6)
    torch.testing.assert_close(found, regions[:, None].float())  # what looks at regions alone sees them where they are
    assert len(seen) == 5 and torch.equal(seen[0][0], images)
    assert torch.equal(seen[3][0], images.flip(-2)) and torch.equal(seen[4][0], images.flip(-1))


def test_grey():
    images = torch.randn(2, 3, 4, 5)
    luma = 0.2989 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    torch.testing.assert_close(grey(images), luma[:, None].repeat(1, 3, 1, 1))


def test_blur_by_its_definition():
    images = torch.randn(1, 3, 9, 14, dtype=torch.float64)
    weights = torch.tensor([math.exp(-(u**2) / 50) for u in range(-5, 6)], dtype=torch.float64)
    weights /= weights.sum()
    rows, columns = (reflected(side) for side in (9, 14))
    expected = torch.zeros_like(images)
    for dy in range(11):
        for dx in range(11):
            expected += weights[dy] * weights[dx] * images[:, :, rows[dy : dy + 9]][:, :, :, columns[dx : dx + 14]]
    torch.testing.assert_close(blur(images), expected, atol=1e-6, rtol=1e-5)


def reflected(side: int) -> torch.Tensor:
    """Return the places of pixels -5 to side + 4 in an image that is mirrored about its first and last pixels."""
    places = torch.arange(-5, side + 5).abs()
    return torch.minimum(places, 2 * (side - 1) - places)


@pytest.mark.parametrize("view", [grey, blur])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_views_keep_shape_and_dtype(view, dtype):
    images = torch.randn(2, 3, 16, 24).to(dtype)
    assert view(images).shape == images.shape
    assert view(images).dtype == dtype


def test_a_share_out_of_range(tiny_clip):
    with pytest.raises(ConfigError, match=r"image_engineering is 1\.5; expected a share between 0 and 1"):
        load(tiny_clip, IMAGE_ENGINEERING=1.5)
