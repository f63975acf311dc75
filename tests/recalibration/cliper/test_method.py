"""CLIPer: what its golden cases do not show, and the parts that it shares with nobody."""

from __future__ import annotations

import pytest
import torch

from ovseg.clip import Context, ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import Words
from ovseg.errors import ConfigError
from ovseg.guides import Guide
from ovseg.labelling.scores import ScoreRule, class_probabilities, segment_map
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.cliper.attention_chain import chain_attention, sharpened
from ovseg.recalibration.cliper.patch_windows import PatchWindows
from tests.words import make_words


def make_clip(depth: int) -> ViTClip:
    config = {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": depth, "width": 32, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1},
    }
    torch.manual_seed(depth)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


@pytest.fixture(scope="module")
def clip() -> ViTClip:
    return make_clip(4)


class RandomMaps(Guide):
    """Attention that depends on the image alone, on a square grid whatever its shape."""

    def attention_maps(self, context: Context) -> torch.Tensor:
        seeds = [int(image.abs().sum() * 1000) for image in context.images]
        maps = [torch.rand(3, 49, 49, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(maps).pow(4).softmax(-1)


def words(count: int = 5, background: int = 2) -> Words:
    rows = torch.randn(count + background, 24, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([*range(count), *[-1] * background])
    return make_words(torch.nn.functional.normalize(rows, dim=-1), ids)


def scores(clip, images, queries=None, **options):
    method = build_recalibration("cliper", **options)
    return method.patch_scores(method.encode(clip, images), queries or words())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"windows": (24, 16)},
        {"windows": (48, 16), "guide": RandomMaps()},
        {"guide": RandomMaps(), "refinement": "mean", "fuse_feature": False, "select_layer": -2},
        {"attn_type": "q-q", "guide": RandomMaps(), "refinement": 2},
        {"attn_type": "vanilla", "select_layer": 0.5},
        {"attn_type": "identity", "half_position": True},
    ],
)
def test_batch_equals_singles_and_sizes(clip, options):
    images = torch.randn(3, 3, 44, 67)
    together = scores(clip, images, **options)
    assert together.shape == (3, 7, 7, 7) if "guide" in options else (3, 7, 5, 8)
    assert together.min() >= 0
    alone = torch.cat([scores(clip, image[None], **options) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", [2, 3, 9])
def test_any_depth(depth):
    assert scores(make_clip(depth), torch.randn(1, 3, 32, 40)).isfinite().all()


def test_a_single_block_has_nothing_to_fuse():
    with pytest.raises(ConfigError, match="depth of the CLIP, whose earlier blocks CLIPer fuses, is 1; expected at le"):
        scores(make_clip(1), torch.randn(1, 3, 32, 32))


def test_background_words_only_take_part_where_they_cannot_win(clip):
    images = torch.randn(1, 3, 32, 32)
    both, contrast = scores(clip, images), scores(clip, images, words_win=False)
    torch.testing.assert_close(both[:, :5], contrast[:, :5])
    assert both[:, 5:].max() > 0
    assert not contrast[:, 5:].any()


def test_the_chain_is_the_product_of_the_maps():
    maps, coarse = torch.rand(2, 3, 36, 36).pow(6).softmax(-1), torch.rand(2, 4, 6, 6)
    one, two, three = (sharpened(maps[:, index], 0.3) for index in range(3))
    product = (one @ two @ three @ coarse.flatten(2).mT).mT.unflatten(2, (6, 6))
    torch.testing.assert_close(chain_attention(coarse, maps, "SFSA", 0.3), product)
    mean = ((one + two + three) / 3 @ coarse.flatten(2).mT).mT.unflatten(2, (6, 6))
    torch.testing.assert_close(chain_attention(coarse, maps, "mean", 0.3), mean)
    torch.testing.assert_close(chain_attention(coarse, maps, -2, 0.3), (two @ coarse.flatten(2).mT).mT.view(2, 4, 6, 6))


def test_windows_are_averaged_where_they_overlap():
    grid = (3, 5)
    windows = PatchWindows.over(grid, 8, (24, 16))
    assert len(windows.plan) == 2
    truth = torch.randn(2, 4, *grid)
    cut = torch.stack([truth[..., :3], truth[..., 2:]], dim=1).flatten(0, 1)
    torch.testing.assert_close(windows.mean_scores(cut[None])[0], truth)
    mixed = windows.mean_weights(torch.rand(4, 9, 9) + 0.1)
    assert mixed.shape == (2, 15, 15)
    torch.testing.assert_close(mixed.sum(-1), torch.ones(2, 15))
    far = mixed.view(2, 3, 5, 3, 5)[:, :, :2, :, 3:]  # the left two columns share no window with the right two
    assert not far.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attn_type": "fused"}, "attn_type is 'fused'; expected one of fused-attn, q-q, k-k, vanilla, identity"),
        ({"refinement": "sum"}, "refinement is 'sum'; expected SFSA, mean or the index of a map"),
        ({"guide": "clip"}, "guide 'clip' gives no attention maps; expected"),
        ({"windows": (224,)}, r"windows is \[224\]; expected none, or a side and a step that is no longer"),
        ({"windows": (112, 224)}, r"windows is \[112, 224\]; expected none"),
        ({"windows": (20, 16)}, r"windows is \[20, 16\]; expected multiples of the patch of this CLIP, 8"),
        ({"guide": RandomMaps(), "refinement": 3}, "refinement is 3 but the guide gives 3 maps; expected -3..2"),
        ({"select_layer": 4}, "layer 4 names no block of 4"),
    ],
)
def test_option_mistakes(clip, options, message):
    with pytest.raises(ConfigError, match=message):
        scores(clip, torch.randn(1, 3, 32, 32), **options)


def test_attention_of_another_shape_is_refused():
    with pytest.raises(ConfigError, match="got attention maps of 48 tokens; expected a square grid"):
        chain_attention(torch.rand(1, 2, 4, 4), torch.rand(1, 1, 48, 48), "SFSA", 0.1)


def maps_and_matrices():
    maps = torch.rand(4, 5, 7, generator=torch.Generator().manual_seed(2))
    maps[3] *= 0.2
    return maps, bilinear_matrix(5, 60).float(), bilinear_matrix(7, 90).float(), torch.arange(4)


def test_maps_keep_the_peaks_of_their_patches():
    arguments = maps_and_matrices()
    rule = ScoreRule(1.0, softmax=False, keep_peak=True)
    whole = class_probabilities(*arguments, rule)
    torch.testing.assert_close(whole.amax((1, 2)), arguments[0].amax((1, 2)))
    labels, best = segment_map(*arguments, rule)
    assert torch.equal(labels, whole.argmax(0).int())
    torch.testing.assert_close(best, whole.amax(0))


def test_weak_queries_are_dropped():
    arguments = maps_and_matrices()
    rule = ScoreRule(1.0, softmax=False, min_max=True, score_threshold=0.3)
    labels, _ = segment_map(*arguments, rule)
    assert set(labels.unique().tolist()) == {0, 1, 2}
    assert not class_probabilities(*arguments, rule)[3].any()
    labels, best = segment_map(*arguments, ScoreRule(1.0, softmax=False, score_threshold=1.0))
    assert (labels == -1).all()
    assert not best.any()
