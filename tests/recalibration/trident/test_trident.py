from __future__ import annotations

import numpy as np
import pytest
import segment_anything
import torch
import torch.nn.functional as F

import ovseg
from ovseg import Vocabulary
from ovseg.clip.ensemble import Ensemble, Seen
from ovseg.errors import ConfigError, WeightsError
from ovseg.guides.sam_image import cells, last_attention, look
from ovseg.meta_arch.members import OverMembers
from ovseg.recalibration.trident import Trident, splicing
from ovseg.recalibration.trident.correlation import correlation
from ovseg.recalibration.trident.region_prompts import Prompting
from ovseg.zoo import model_config
from ovseg.zoo.needs import needs_of
from tests.clip.towers import TOWERS, vit
from tests.recalibration.trident.small import FOUR, SIDE, answers_of, build, photo, tiny_sam


def test_attention_is_that_of_the_encoder(sam):
    """What it adds up to is what the last block adds to its tokens."""
    pixels = photo(100, 60).permute(1, 2, 0).numpy()
    with torch.no_grad():
        image, tokens = look(sam, pixels)
        assert cells(sam, image) == (8, 4) and image.embedding.shape == (1, 32, 8, 8)
        attention = sam.image_encoder.blocks[-1].attn
        weights, values = last_attention(sam, tokens, (8, 8))
        mixed = torch.stack([own @ one for own, one in zip(weights, values, strict=True)])
        found = attention.proj(mixed.transpose(0, 1).flatten(1).unflatten(0, (8, 8)))
        torch.testing.assert_close(found, attention(tokens[None])[0], atol=1e-5, rtol=1e-4)
        whole = torch.stack(list(last_attention(sam, tokens, (8, 8))[0])).unflatten(1, (8, 8)).unflatten(3, (8, 8))
        part = torch.stack(list(last_attention(sam, tokens, (8, 4))[0])).unflatten(1, (8, 4)).unflatten(3, (8, 4))
        torch.testing.assert_close(part, whole[:, :, :4, :, :4])


def test_correlation_has_a_bound_for_each_row_and_no_empty_ones():
    values, weights = torch.randn(3, 12, 5), torch.rand(3, 12, 12)
    unit = F.normalize(values, dim=-1)
    cosines = unit @ unit.mT
    bound = (1.5 * cosines.mean((0, 2))).clone()
    bound[bound < 0] = 0.6
    kept = torch.where(cosines > bound.clamp(max=0.9)[:, None], weights, 0).mean(0)
    found = correlation(iter(weights), values, 1.5, keep_negative=False)
    torch.testing.assert_close(found, kept / kept.sum(1, keepdim=True))
    torch.testing.assert_close(found.sum(1), torch.ones(12))


@pytest.mark.parametrize("size", [(37, 90), (48, 48), (200, 30), (16, 128)])
def test_images_of_any_shape_are_spliced(clip, size):
    images = torch.randn(2, 3, *size)
    fitted = splicing.fit(images, 8, 32)
    assert fitted.shape[2] % 8 == fitted.shape[3] % 8 == 0 and min(fitted.shape[2:]) >= 32
    method = Trident(windows=(32, 16))
    together = method.encode(clip, images)
    assert together.features.shape == (2, 32, size[0] // 8, size[1] // 8)
    alone = torch.cat([method.encode(clip, image[None]).features for image in images])
    torch.testing.assert_close(together.features, alone, atol=1e-5, rtol=1e-4)


def test_what_windows_share_is_their_mean():
    places = splicing.plan((16, 24), 8, 16, 8)
    tokens = torch.arange(2.0)[:, None, None].expand(2, 16, 3)  # twice as fine as the patches
    found = splicing.splice(tokens, (4, 4), places, 8)
    assert found.shape == (3, 4, 6)
    assert found[0, 0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_one_mean_holds_for_all_windows_in_any_number_of_passes(clip, monkeypatch):
    image, method = torch.randn(1, 3, 48, 80), Trident(windows=(32, 16))
    together = method.encode(clip, image).features
    monkeypatch.setattr(splicing, "WINDOWS_PER_PASS", 3)
    torch.testing.assert_close(method.encode(clip, image).features, together, atol=1e-5, rtol=1e-4)


def test_the_photograph_is_encoded_once_and_seen_as_it_is(clip, sam, monkeypatch):
    model, seen = build(clip, sam=sam, refine=True, least_quality=0.0, least_area=4), []
    forward = sam.image_encoder.forward
    monkeypatch.setattr(sam.image_encoder, "forward", lambda x: seen.append(x.shape) or forward(x))
    words = model.words(Vocabulary.parse(["cat", "sofa", "tree"]))
    encoded = model.encode([photo()])
    for _ in range(2):
        model.answer(encoded, 0, (70, 90), words)
    assert seen == [(1, 3, SIDE, SIDE)] and encoded.sizes == ((70, 90),)
    assert encoded.images[0].image.shape == (3, 48, 62)
    sight = encoded.images[0].parts[0][0].context.own
    assert next(iter(sight.values())).images[0].original_size == (72, 96)  # whole patches


@pytest.mark.parametrize("halves", [False, True])
def test_several_clips_share_what_sam_has_seen(sam, monkeypatch, halves):
    """Whatever their patches are; with halves SAM sees the whole, too, from which it redraws."""
    other = vit("ViT-B-32", patch_size=8, image_size=32)(3)
    pair = Ensemble([TOWERS["ViT (OpenAI, LAION, MetaCLIP, DFN)"](3), other])
    method = Trident(windows=(32, 16), sam=sam, halves=halves, refine=True)
    photos, images = [photo(75, 100, seed).permute(1, 2, 0).numpy() for seed in range(2)], torch.randn(2, 3, 64, 80)
    seen, forward = [], sam.image_encoder.forward
    monkeypatch.setattr(sam.image_encoder, "forward", lambda x: seen.append(x.shape) or forward(x))
    over = OverMembers(method)
    dense = over.encode_photos(pair, images, over.see_photos(pair, photos))
    assert len(seen) == (6 if halves else 2) and dense.features.shape[0] == 2
    for tower, own in zip(pair.towers, dense.context.kept(Seen).members, strict=True):
        shown, _ = pair.shown(tower, images, None)
        alone = method.encode_photos(tower, shown, method.see_photos(pair, photos))
        torch.testing.assert_close(own.features, alone.features)


@pytest.mark.parametrize("halves", [False, True])
@pytest.mark.parametrize("windows", [(), (32, 16)])
@pytest.mark.parametrize("size", [(16, 300), (300, 9), (1, 2000)])
def test_photographs_may_be_strips(clip, sam, size, windows, halves):
    """Beyond the sides of SAM's patches to one another, and beyond those of its square."""
    model = build(clip, sam=sam, windows=windows, halves=halves, refine=True, least_quality=0.0, least_area=1)
    (found,) = answers_of([model], Vocabulary.parse(FOUR), *size)
    assert found.labels.shape == size and set(found.labels.unique().tolist()) <= {0, 1, 2, 3}


def test_photographs_by_the_page_and_the_command_go_the_same_way(clip, sam):
    model = build(clip, sam=sam)
    segmenter = ovseg.Segmenter(model, "trident", "cpu")
    pixels = photo().permute(1, 2, 0).numpy()
    result = segmenter(np.ascontiguousarray(pixels), ["cat", "sofa"])
    assert result.labels.shape == (70, 90) and result.meta["network_size"] == [70, 90]
    assert result.meta["settings"]["view"]["short_side"] == 48


def test_halves_are_seen_apart(clip, sam):
    model = build(clip, sam=sam, halves=True)
    (seen,) = model.encode([photo(48, 96)]).images
    assert seen.parts[0][0].features.shape == (1, 32, 8, 16)  # two squares side by side


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pair_factor": -1.0}, "pair_factor is -1.0; expected at least 0"),
        ({"pair_factor": float("nan")}, "pair_factor is nan; expected at least 0"),
        ({"coarse_threshold": 20.0}, "coarse_threshold is 20.0; expected 0 to 1"),
        ({"mask_factor": -0.005}, "mask_factor is -0.005; expected at least 0"),
        ({"least_quality": 80.0}, "least_quality is 80.0; expected 0 to 1"),
        ({"least_quality": float("nan")}, "least_quality is nan; expected 0 to 1"),
        ({"mask_prompt": "fixed"}, "mask_prompt is 'fixed'; expected one of corrected, original"),
    ],
)
def test_numbers_out_of_range(option, message):
    with pytest.raises(ConfigError, match=message):
        Trident(**option)


def test_mistakes(tmp_path, clip, sam, monkeypatch):
    with pytest.raises(ConfigError, match=r"windows is \[32, 48\]; expected none, or a side and a step"):
        Trident(windows=(32, 48))
    with pytest.raises(ConfigError, match=r"windows is \[20, 10\]; expected multiples of the patch of this CLIP, 8"):
        Trident(windows=(20, 10)).encode(clip, torch.randn(1, 3, 48, 48))
    with pytest.raises(ConfigError, match="refine is on but there is no SAM"):
        Trident(refine=True)
    with pytest.raises(ConfigError, match="sam is 'vit_b'; expected TYPE@FILE"):
        Trident(sam="vit_b")
    with pytest.raises(WeightsError, match=r"nowhere\.pth does not exist"):
        Trident(sam="vit_b@nowhere.pth")
    with pytest.raises(ConfigError, match="Trident got no photographs of 1 images"):
        Trident(sam=sam).encode(clip, torch.randn(1, 3, 48, 48))
    monkeypatch.setitem(segment_anything.sam_model_registry, "vit_b", tiny_sam)
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    named = Trident(sam=f"vit_b@{tmp_path / 'sam.pth'}")
    assert named.options["sam"] == Trident(sam=sam).options["sam"] != ""


def test_what_it_needs_is_known_by_name():
    clip_of, guide, own = needs_of("trident/ViT-B-16/openai")
    assert (clip_of.what, guide.what) == ("CLIP ViT-B-16/openai", "guide timm:vit_base_patch16_224.dino")
    assert own.what == "SAM sam_vit_b_01ec64.pth" and "github.com/facebookresearch/segment-anything" in own.by_hand
    assert needs_of("trident/mini") == []


@pytest.mark.parametrize(
    ("name", "side", "step", "threshold", "factor", "keep", "coarse"),
    [
        ("voc21", 448, 224, 0.2, 1.2, True, 0.2),
        ("pc60", 576, 224, 0.15, 1.2, True, 0.15),
        ("coco80", 448, 224, 0.25, 1.2, True, 0.25),
        ("voc20", 336, 112, 0, 0, True, 0.2),
        ("pc59", 576, 224, 0, 1.2, True, 0.15),
        ("coco171", 448, 224, 0, 1.2, True, 0.05),
        ("cityscapes19", 688, 224, 0, 3.0, False, 0.1),
        ("ade150", 576, 224, 0, 1.2, False, 0.05),
        ("ade847", 448, 224, 0, 1.2, True, 0.2),
        ("pc459", 448, 224, 0, 1.2, True, 0.2),
    ],
)
def test_protocols_are_the_published_ones(name, side, step, threshold, factor, keep, coarse):
    model = model_config("trident/ViT-B-16/openai", protocol=name).MODEL
    options = {key.lower(): value for key, value in model.RECALIBRATION.OPTIONS.items()}
    method = Trident(**{**options, "guide": "clip", "sam": ""})
    assert (model.PROTOCOL.SHORT_SIDE, model.PROTOCOL.PROB_THRESHOLD) == (side, threshold)
    assert method.windows == (336, step) and (method.pair_factor, method.keep_negative) == (factor, keep)
    assert method.halves == (name == "cityscapes19")
    assert method.prompting == Prompting(coarse, 225, 0.005, 0.8, "original")
