from __future__ import annotations

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError
from ovseg.guides import Guide
from ovseg.recalibration import build_recalibration


class Colours(Guide):
    """The pixels themselves, averaged to a grid of its own."""

    def forward(self, context):
        height, width = context.images.shape[2:]
        return torch.nn.functional.adaptive_avg_pool2d(context.images.float(), (height // 5, width // 5))


def build(depth=5, patch=8):
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 40, "patch_size": patch, "layers": depth, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    return ViTClip.from_config(config, build_model(config, "test").state_dict(), "test")


@pytest.fixture(scope="module")
def clip():
    return build()


def regions(count, height, width):
    """Coarse blocks of random ids, some of them no region."""
    coarse = torch.randint(-1, 6, (count, 1, 4, 5), generator=torch.Generator().manual_seed(0)).float()
    return torch.nn.functional.interpolate(coarse, (height, width))[:, 0].long()


@pytest.mark.parametrize("guide", [Colours(), "clip", "clip:0.3"])
def test_a_batch_is_its_images_even_with_other_counts_of_regions(clip, guide):
    images, ids, method = torch.randn(3, 3, 40, 56), regions(3, 40, 56), build_recalibration("corrclip", guide=guide)
    ids[1], ids[2] = 4, -1
    dense = clip.dense(images, method, regions=ids)
    assert dense.features.isfinite().all() and dense.features.shape == (3, 24, *dense.grid)
    for index in range(3):
        alone = clip.dense(images[index, None], method, regions=ids[index, None]).features
        torch.testing.assert_close(dense.features[index, None], alone, atol=1e-5, rtol=1e-4)


def test_only_which_region_counts_not_its_number(clip):
    images, ids, method = torch.randn(1, 3, 40, 56), regions(1, 40, 56), build_recalibration("corrclip")
    other = torch.where(ids >= 0, 1000 - 7 * ids, ids - 5)
    wanted = clip.dense(images, method, regions=ids).features
    torch.testing.assert_close(clip.dense(images, method, regions=other).features, wanted, atol=1e-5, rtol=1e-4)


def test_pairs_in_scope():
    method = build_recalibration("corrclip")
    cosines = torch.tensor([[1.0, 0.9, 0.8, 0.1], [0.9, 1.0, 0.2, 0.3], [0.8, 0.2, 1.0, 0.7], [0.1, 0.3, 0.7, 1.0]])
    kept = method.correlation(cosines[None], torch.tensor([[0, 0, 1, -1]]))[0] > 0
    # regions see themselves; what has no region sees, and is seen by, what is more alike than the mean (0.625)
    assert kept.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, True],
        [False, False, True, True],
    ]


def test_the_class_token_is_that_of_clip_and_earlier_blocks_do_not_see_the_copies(clip):
    images = torch.randn(2, 3, 40, 40)
    dense = clip.dense(images, build_recalibration("corrclip"), regions=regions(2, 40, 40))
    plain = clip.dense(images, build_recalibration("clip"))
    torch.testing.assert_close(dense.cls, plain.cls, atol=1e-5, rtol=1e-4)


def test_without_the_extra_branches_one_region_of_everything_is_attention_by_likeness(clip):
    images = torch.randn(1, 3, 40, 40)
    method = build_recalibration("corrclip", alpha=0.0, beta=0.0, guide=Colours())
    whole = clip.dense(images, method, regions=torch.zeros(1, 40, 40, dtype=torch.long))
    weights = method.correlation(torch.ones(1, 4, 4), torch.zeros(1, 4, dtype=torch.long))
    torch.testing.assert_close(weights, torch.full((1, 4, 4), 0.25))
    assert whole.grid == (8, 8)


@pytest.mark.parametrize(("depth", "wanted"), [(3, [0]), (5, [2]), (7, [2, 3, 4]), (12, [5, 6, 7, 8, 9])])
def test_blocks_of_the_spatial_branch(depth, wanted):
    assert list(build_recalibration("corrclip").averaged(depth)) == wanted


@pytest.mark.parametrize(("depth", "count"), [(24, 12), (32, 28), (16, 12)])
def test_deep_clips_average_more_blocks(depth, count):
    averaged = build_recalibration("corrclip").averaged(depth)
    assert len(averaged) == count and averaged[-1] == depth - 3


def test_shallow_and_deep_clips_run():
    images, ids = torch.randn(1, 3, 32, 48), regions(1, 32, 48)
    for depth in (3, 13):
        assert build(depth, 16).dense(images, build_recalibration("corrclip"), regions=ids).grid == (2, 3)
    with pytest.raises(ConfigError, match="spatial_layers is 1 of 2 blocks; expected"):
        build(2).dense(images, build_recalibration("corrclip"), regions=ids)


def test_half_precision(clip):
    images, ids, method = (
        torch.randn(1, 3, 40, 56),
        regions(1, 40, 56),
        build_recalibration("corrclip", guide=Colours()),
    )
    full = clip.dense(images, method, regions=ids).features
    try:
        half = clip.to(torch.bfloat16).dense(images, method, regions=ids).features
    finally:
        clip.float()
    assert torch.cosine_similarity(full, half.float(), dim=1).min() > 0.98


def test_it_wants_regions(clip):
    with pytest.raises(ConfigError, match="CorrCLIP got images without regions"):
        clip.dense(torch.randn(1, 3, 40, 40), build_recalibration("corrclip"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": -1.0}, "tau is -1.0; expected at least"),
        ({"eps": -0.1}, "eps is -0.1; expected at least"),
        ({"spatial_layers": 2.5}, "option spatial_layers is 2.5"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ConfigError, match=message):
        build_recalibration("corrclip", **options)
