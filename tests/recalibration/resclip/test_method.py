"""ResCLIP: its switches against the methods it builds on, the feedback against its definition, mistakes."""

from __future__ import annotations

import math

import pytest
import torch

from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.errors import ConfigError
from ovseg.labelling.scores import ScoreRule
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.resclip.semantic_feedback import label_attention, patch_labels
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
    return make_clip(6)


WORDS = make_words(torch.nn.functional.normalize(torch.randn(5, 24), dim=-1), torch.arange(5))


def scores(clip, method, images):
    return method.patch_scores(method.encode(clip, images), WORDS)


@pytest.mark.parametrize(
    ("attention", "other", "whole"),
    [
        ("resclip", "naclip", False),
        ("naclip", "naclip", False),
        ("clearclip", "clearclip", False),
        ("sclip", "sclip", True),
    ],
)
def test_switched_off_it_is_the_method_it_builds_on(clip, attention, other, whole):
    images = torch.randn(2, 3, 40, 64)
    kept = {"residual": whole, "feed_forward": whole}
    method = build_recalibration("resclip", attention=attention, use_rcs=False, use_sfr=False, **kept)
    assert method.needs_of(6).attention == method.needs_of(6).hidden == ()
    torch.testing.assert_close(scores(clip, method, images), scores(clip, build_recalibration(other, **kept), images))


@pytest.mark.parametrize("options", [{"use_rcs": False}, {"use_sfr": False}, {"delete_same_entity": False}])
def test_every_switch_matters(clip, options):
    images = torch.randn(1, 3, 4, 4).repeat_interleave(32, 2).repeat_interleave(32, 3)
    full, other = build_recalibration("resclip"), build_recalibration("resclip", **options)
    patches = full.encode(clip, images).features.flatten(2)[0].mT
    apart = torch.nn.functional.normalize(patches - patches.mean(0), dim=-1)[::37]  # words by which patches differ
    words = make_words(apart, torch.arange(len(apart)))
    found = [method.patch_scores(method.encode(clip, images), words) for method in (full, other)]
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_the_same_features_can_be_scored_by_other_words(clip):
    method = build_recalibration("resclip")
    dense = method.encode(clip, torch.randn(1, 3, 64, 64))
    first = method.patch_scores(dense, WORDS)
    method.patch_scores(dense, make_words(WORDS.embeddings[:2], torch.arange(2)))
    assert torch.equal(first, method.patch_scores(dense, WORDS))


@pytest.mark.parametrize("size", [(8, 8), (8, 64), (41, 67)])
def test_odd_sizes(clip, size):
    found = scores(clip, build_recalibration("resclip", half_feedback=True), torch.randn(2, 3, *size))
    assert found.shape == (2, 5, size[0] // 8, size[1] // 8)
    assert found.isfinite().all()


def by_definition(labels: torch.Tensor, std: float) -> torch.Tensor:
    """Follow the lines of all pairs of patches of labels (h, w) one by one."""
    height, width = labels.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    longest = max(height, width) - 1
    shares = torch.linspace(0, 1, longest + 1)
    weights = torch.zeros(len(places), len(places))
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            if labels[y, x] != labels[v, u]:
                continue
            far = max(abs(v - y), abs(u - x))
            line = [(torch.round(y + t * (v - y)).int(), torch.round(x + t * (u - x)).int()) for t in shares[: far + 1]]
            clear = all(labels[point] == labels[y, x] for point in line)
            weights[i, j] = 1.0 if clear else math.exp(-far / longest)
    size = min(len(places), int(6 * std + 1))
    size += size % 2 == 0
    kernel = torch.tensor([math.exp(-((k - size // 2) ** 2) / (2 * std**2)) for k in range(size)])
    padded = torch.nn.functional.pad(weights, (size // 2, size // 2))
    smooth = sum(padded[:, k : k + len(places)] * (kernel / kernel.sum())[k] for k in range(size))
    return smooth / smooth.sum(1, keepdim=True)


@pytest.mark.parametrize("grid", [(4, 4), (3, 7), (1, 6), (6, 2)])
def test_feedback_is_that_of_the_definition(grid):
    labels = torch.randint(0, 2, (3, *grid), generator=torch.Generator().manual_seed(sum(grid)))
    found = label_attention(labels, 1.5)
    for one, expected in zip(found, labels, strict=True):
        torch.testing.assert_close(one, by_definition(expected, 1.5), atol=1e-6, rtol=1e-5)


def test_patches_take_the_label_of_most_pixels():
    labels = torch.tensor([[2, 0, 0], [1, 0, 2]])
    maps = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1)[None].float()
    image = torch.randn(1, 3, 16, 24)
    assert torch.equal(patch_labels(maps, image, 8, ScoreRule(40.0))[0], labels)
    unsure = ScoreRule(1.0, prob_threshold=0.9, threshold_label=0, pamr_steps=1)
    assert not patch_labels(maps, image, 8, unsure).any()


@pytest.mark.parametrize(
    ("depth", "options", "message"),
    [
        (6, {"attention": "kk"}, "attention is 'kk'; expected one of resclip, naclip, clearclip, sclip"),
        (6, {"layers": ()}, "number of layers is 0; expected at least 1"),
        (6, {"layers": (5, 6, 7, 8)}, "layer 6 names no block of 6; expected"),
        (6, {"layers": (5,)}, "block 5 cannot be recorded; expected 0 to 4 of 6"),
        (2, {}, "block 1 cannot be recorded; expected 0 to 0 of 2"),
        (6, {"temp_thd": 2.0}, "prob_threshold is 2.0; expected a share"),
        (6, {"use_rcs": 1}, r"option use_rcs is 1 \(int\); expected bool"),
    ],
)
def test_mistakes(depth, options, message):
    with pytest.raises(ConfigError, match=message):
        scores(make_clip(depth), build_recalibration("resclip", **options), torch.randn(1, 3, 32, 32))
