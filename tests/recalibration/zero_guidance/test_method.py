from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ovseg
from ovseg.cli import main
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import Words
from ovseg.errors import ConfigError, VocabularyError
from ovseg.guides import Guide
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.zero_guidance import segment_embedding
from ovseg.recalibration.zero_guidance.segment_embedding import embed_segments, masked_attention, subtraction_weight
from tests.words import make_words


class Noise(Guide):
    """The same random features for all images, on a grid of its own."""

    def __init__(self, grid):
        super().__init__()
        self.features = torch.randn(1, 6, *grid, generator=torch.Generator().manual_seed(4))

    def forward(self, context):
        return self.features.expand(len(context.images), -1, -1, -1)


def build(depth=4, width=32, patch=8, size=40, **vision):
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": size, "patch_size": patch, "layers": depth, "width": width, "head_width": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1},
    }
    config["vision_cfg"] |= vision
    torch.manual_seed(0)
    model = build_model(config, "test")
    for parameter in model.visual.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return ViTClip.from_config(config, model.state_dict(), "test")


@pytest.fixture(scope="module")
def clip():
    return build()


def queries(count=5, seed=0):
    rows = torch.randn(count, 24, generator=torch.Generator().manual_seed(seed))
    return make_words(F.normalize(rows, dim=1), torch.arange(count))


@pytest.mark.parametrize("grid", [(3, 4), (5, 7), (11, 9)])
def test_features_live_on_the_grid_of_the_guide(clip, grid):
    images, method = torch.randn(2, 3, 40, 56), build_recalibration("zero_guidance", guide=Noise(grid), num_parts=6)
    dense = method.encode(clip, images)
    assert dense.grid == grid and dense.features.shape == (2, 24, *grid)
    torch.testing.assert_close(dense.cls, clip.dense(images, build_recalibration("clip")).cls, atol=1e-5, rtol=1e-4)
    assert method.patch_scores(dense, queries()).shape == (2, 5, *grid)


@pytest.mark.parametrize(("depth", "patch"), [(2, 8), (3, 16), (7, 4)])
def test_other_depths_and_patches_with_the_clip_as_guide(depth, patch):
    clip, method = build(depth=depth, patch=patch, size=4 * patch), build_recalibration("zero_guidance")
    images = torch.randn(2, 3, 3 * patch, 5 * patch)
    dense = method.encode(clip, images)
    assert dense.grid == (3, 5) and dense.features.isfinite().all()
    alone = torch.cat([method.encode(clip, image[None]).features for image in images])
    torch.testing.assert_close(dense.features, alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("mask_from", "counts"),
    [(20 / 24, {24: 4, 12: 2, 8: 1, 2: 1, 1: 1}), (1.0, {12: 1}), (0, {4: 4}), (2, {24: 22, 3: 1}), (-3, {12: 3})],
)
def test_masked_blocks_follow_the_depth(mask_from, counts):
    method = build_recalibration("zero_guidance", mask_from=mask_from)
    assert {depth: method.blocks_of(depth) for depth in counts} == counts


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_guide_may_read_blocks_that_are_masked(clip, share):
    images, features = torch.randn(1, 3, 40, 40), {}
    for start in (1, 3):
        method = build_recalibration("zero_guidance", guide=f"clip:{share}", mask_from=start)
        features[start] = method.guide(method.encode(clip, images).context)
    torch.testing.assert_close(features[1], features[3])


def test_a_segment_sees_nothing_but_itself(clip):
    """Masked from the first block on, pixels outside of a segment change nothing, until they are subtracted."""
    images = torch.randn(1, 3, 40, 40)
    changed = images.clone()
    changed[..., 24:] = torch.randn(1, 3, 40, 16)
    mask = torch.zeros(5, 5)
    mask[:, :3] = 1
    for sd, same in ((None, True), (5.0, False)):
        found = [
            embed_segments(clip.tower.embed(one, "bicubic")[0], mask.view(1, -1), clip.blocks, clip, sd)[0]
            for one in (images, changed)
        ]
        assert torch.allclose(*found, atol=1e-5) is same


def test_the_whole_image_is_plain_clip(clip):
    images = torch.randn(1, 3, 40, 40)
    tokens, _ = clip.tower.embed(images, "bicubic")
    found, saliency = embed_segments(tokens, torch.ones(1, 25), clip.blocks, clip, None)
    torch.testing.assert_close(found, clip.dense(images).cls, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(saliency, torch.ones(1, 4))


def test_attention_is_that_of_the_formula(clip):
    q, k, v = torch.randn(3, 2, 4, 6, 8).unbind()
    masks = torch.rand(2, 6)
    masks[:, 0] = 1
    plain = (q @ k.mT / 8**0.5).softmax(-1)
    weighted = plain * masks[:, None, None]
    weighted = weighted / weighted.sum(-1, keepdim=True)
    cosine = (F.normalize(plain, dim=-1) * F.normalize(weighted, dim=-1)).sum(-1).mean((1, 2))
    strength = torch.exp(-((cosine + 1) ** 2) / 2.0)
    mixed, saliency = masked_attention(clip, q, k, v, masks, 2.0)
    torch.testing.assert_close(saliency, cosine)
    torch.testing.assert_close(subtraction_weight(saliency, 2.0), strength)
    torch.testing.assert_close(mixed, (weighted - strength[:, None, None, None] * plain[:, :, :1]) @ v)


def test_segments_without_a_patch_collapse_to_the_class_token(clip):
    tokens, _ = clip.tower.embed(torch.randn(1, 3, 40, 40), "bicubic")
    found, _ = embed_segments(tokens, torch.zeros(2, 25), clip.blocks[2:], clip, 5.0)
    assert found.isfinite().all()
    torch.testing.assert_close(found[0], found[1])


def test_passes_do_not_matter(clip, monkeypatch):
    tokens, _ = clip.tower.embed(torch.randn(1, 3, 40, 40), "bicubic")
    arguments = (tokens, torch.rand(7, 25), clip.blocks[2:], clip, 5.0)
    together = embed_segments(*arguments)
    monkeypatch.setattr(segment_embedding, "SEGMENTS_PER_PASS", 2)
    for one, other in zip(together, embed_segments(*arguments), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [{"residual": False}, {"feed_forward": False}])
def test_blocks_without_a_half(clip, options):
    images = torch.randn(1, 3, 40, 40)
    full, less = (
        build_recalibration("zero_guidance", **chosen).encode(clip, images).features for chosen in ({}, options)
    )
    assert less.isfinite().all() and not torch.allclose(full, less, atol=1e-3)


@pytest.mark.parametrize("merge_threshold", [-1.0, 0.5, 1.1])
def test_every_region_scores_as_one(clip, merge_threshold):
    method = build_recalibration(
        "zero_guidance", guide=Noise((6, 8)), num_parts=8, threshold=1.1, merge_threshold=merge_threshold
    )
    dense = method.encode(clip, torch.randn(2, 3, 40, 48))
    scores = method.patch_scores(dense, queries())
    maps = method.region_maps(dense, queries())
    assert [len(regions) for regions in maps] == {-1.0: [1, 1], 1.1: [8, 8]}.get(
        merge_threshold, [len(m) for m in maps]
    )
    for own, regions in zip(scores, maps, strict=True):
        torch.testing.assert_close(regions.sum(0), torch.ones(6, 8))
        for region in regions.bool():
            inside = own[:, region]
            torch.testing.assert_close(inside, inside[:, :1].expand_as(inside))
            assert (inside.abs() <= 1 + 1e-5).all()
    again = method.patch_scores(dense, queries(seed=1))  # other words start from the leaves anew
    assert again.shape == scores.shape and not torch.equal(again, scores)


def test_words_may_differ_from_image_to_image(clip):
    class PerImage(Words):
        def rows(self, cls):
            return torch.stack([self.embeddings, self.embeddings.flip(0)])

    method = build_recalibration("zero_guidance", guide=Noise((4, 4)), num_parts=4)
    dense = method.encode(clip, torch.randn(1, 3, 40, 40).expand(2, -1, -1, -1))
    plain = queries()
    first, second = method.patch_scores(dense, make_words(plain.embeddings, plain.query_to_class, PerImage))
    torch.testing.assert_close(first, second.flip(0))


def test_a_clip_that_pools_by_average_is_refused():
    averaged = build(pool_type="avg")
    with pytest.raises(
        ConfigError, match=r"Zero_Guidance needs a class token that becomes .* use one that pools by its class token"
    ):
        build_recalibration("zero_guidance").encode(averaged, torch.randn(1, 3, 40, 40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_parts": 1}, "num_parts is 1; expected at least 2"),
        ({"sd": 0.0}, "sd is 0.0; expected at least 1e-06"),
        ({"half_splits": "half"}, r"half_splits is 'half' \(str\); expected bool"),
        ({"guide": "clip:2"}, "names no share of the depth"),
    ],
)
def test_option_mistakes(options, message):
    with pytest.raises(ConfigError, match=message):
        build_recalibration("zero_guidance", **options)


def test_a_first_block_that_is_not_there(clip):
    with pytest.raises(ConfigError, match="layer 4 names no block of 4"):
        build_recalibration("zero_guidance", mask_from=4).encode(clip, torch.randn(1, 3, 40, 40))


@pytest.fixture(scope="module")
def without_words():
    """The embedded model, which has words of its own."""
    return ovseg.load("zero_guidance/mini", device="cpu")


def test_segments_without_words(without_words, pixels):
    result = without_words(pixels)
    assert len(result.classes) == 615 and (result.labels >= 0).all()
    assert {segment.name for segment in result.segments} <= set(result.classes.names)
    assert 1 <= len(result.segments) <= 20
    own = without_words(pixels, "sky, sand")
    assert {segment.name for segment in own.segments} <= {"sky", "sand"}
    np.testing.assert_array_equal(without_words(pixels).labels, result.labels)


def test_the_command_without_words(photo, tmp_path, capsys, tiny_clip):
    out = tmp_path / "out"
    assert main(["segment", str(photo), "--model", "zero_guidance/mini", "--device", "cpu", "--output", str(out)]) == 0
    report = json.loads((out / "photo.json").read_text())
    found = [entry["name"] for entry in report["classes"] if entry["area"]]
    assert found and all(name in capsys.readouterr().out for name in found[:1])
    assert main(["segment", str(photo), "--model", str(tiny_clip), "--output", str(out)]) == 2
    message = capsys.readouterr().err
    assert "no classes were given and" in message and "give --classes 'cat, sofa'" in message


def test_a_model_without_words_of_its_own(tiny_clip):
    with pytest.raises(VocabularyError, match="no classes were given; give them"):
        ovseg.load(tiny_clip, device="cpu").words()
