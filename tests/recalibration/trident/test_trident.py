from __future__ import annotations

import tracemalloc
from functools import partial

import numpy as np
import pytest
import segment_anything
import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

import ovseg
from ovseg import Vocabulary
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import ConfigError, WeightsError
from ovseg.guides.sam_image import cells, last_attention, look, whole_mask
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule, class_probabilities
from ovseg.labelling.shares import ClassShares
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.recalibration.trident import Trident, region_prompts, splicing
from ovseg.recalibration.trident.correlation import correlation
from ovseg.recalibration.trident.region_prompts import (
    REGIONS_PER_CALL,
    Prompting,
    asked,
    claims,
    find_regions,
    halved,
    mask_prompt,
    redraw,
)
from ovseg.zoo.needs import needs_of
from tests.meta_arch.tester import Largest

SIDE = 128


def tiny_sam(checkpoint=None):
    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=16,
        embed_dim=16,
        depth=2,
        num_heads=2,
        out_chans=32,
        qkv_bias=True,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    prompts = PromptEncoder(32, (SIDE // 16,) * 2, (SIDE, SIDE), mask_in_chans=4)
    two = TwoWayTransformer(depth=1, embedding_dim=32, num_heads=2, mlp_dim=32)
    return Sam(encoder, prompts, MaskDecoder(transformer_dim=32, transformer=two, iou_head_hidden_dim=32)).eval()


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    found = tiny_sam()
    for name, parameter in found.named_parameters():
        if "rel_pos" in name:
            parameter.data = 0.3 * torch.randn_like(parameter)
    found.mask_decoder.iou_prediction_head.layers[-1].bias.data += 0.5  # what it says of masks is in 0..1
    return found.requires_grad_(False)


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return ovseg.load(f"clip/{tiny_clip}", "cpu").model.clip


def build(clip, windows=(32, 16), **options):
    method = Trident(windows=windows, **options)
    view = SizeRule(48, 96, minimum=8)
    return TrainingFree(
        clip=clip,
        recalibration=method,
        size_rule=SizeRule(48, 96, "photo") if method.sees_photo else view,
        protocol=Protocol(0, 0, "none"),
        rule=ScoreRule(20.0),
        templates="none",
        background="none",
        view=view if method.sees_photo else None,
    ).eval()


def photo(height=70, width=90, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 4, 5), generator=generator).float()
    return F.interpolate(coarse, (height, width))[0].byte()


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


def answers_of(models, words_of, height=70, width=90, background="none"):
    found = []
    for model in models:
        words = model.words(words_of, background=background)
        encoded = model.encode([photo(height, width)])
        found.append(model.answer(encoded, 0, (height, width), words, LABELS | {CLASS_SCORES}))
    return found


FOUR = ["cat", "sofa", "tree", "river"]


@pytest.mark.parametrize("background", ["none", "words:sky, wall, sand"])
@pytest.mark.parametrize("every", [1, 2])
def test_redrawing_changes_labels_and_keeps_the_rest(clip, sam, monkeypatch, background, every):
    """Scores of all classes say what labels say, where masks were kept, where none was, and where SAM was not asked."""
    told = region_prompts.ask

    def some(*arguments):
        masks, quality = told(*arguments)
        return masks, torch.where(torch.arange(len(quality)) % every == 0, 1.0, 0.0)

    monkeypatch.setattr(region_prompts, "ask", some)
    refined = build(clip, sam=sam, refine=True, least_quality=0.5, least_area=4)
    before, after = answers_of([build(clip, sam=sam), refined], Vocabulary.parse(FOUR), background=background)
    changed = (before.class_scores != after.class_scores).any(0)
    assert changed.any() and not changed.all() and (before.labels != after.labels).any()
    for one in (before, after):
        named = one.labels >= 0
        assert torch.equal(one.class_scores.argmax(0)[named].int(), one.labels[named])
        torch.testing.assert_close(one.class_scores.amax(0)[named], one.scores[named])
    assert torch.equal(after.labels[~changed], before.labels[~changed])
    assert torch.equal(after.scores[~changed], before.scores[~changed])


@pytest.mark.parametrize("compact", [False, True])
def test_what_detectron2_is_told_is_what_labels_say(clip, sam, monkeypatch, compact):
    for module in ("maps", "scores") if compact else ():
        monkeypatch.setattr(f"ovseg.labelling.{module}.COMPACT", 1000)
    model = build(clip, sam=sam, refine=True, least_quality=0.0, least_area=200)
    (found,) = model.with_words(model.words(Vocabulary.parse(FOUR)))([{"image": photo()}])
    assert found["scores"].dtype == (torch.float16 if compact else torch.float32)
    assert torch.equal(found["sem_seg"].argmax(0).int(), found["labels"].int())


def test_where_sam_is_sure_of_nothing_all_stays(clip, sam):
    models = [build(clip, sam=sam), build(clip, sam=sam, refine=True, least_quality=1.0, least_area=4)]
    before, same = answers_of(models, Vocabulary.parse(FOUR))
    assert torch.equal(before.labels, same.labels) and torch.equal(before.class_scores, same.class_scores)


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


def test_regions_are_connected_by_corners_too():
    own = torch.zeros(6, 8, dtype=torch.bool)
    own[0, 0] = own[1, 1] = own[5, 7] = True
    share = torch.rand(6, 8)
    share[1, 1] = 2
    share[0, 1] = 3  # inside of the box, and not of the region
    found = find_regions(own, share, 2)
    assert found.boxes.tolist() == [[0, 0, 1, 1]] and found.points.tolist() == [[1, 1]]
    assert find_regions(own, share, 1).points.tolist() == [[1, 1], [7, 5]]
    assert find_regions(own, share, 3).points.shape == (0, 2) and find_regions(own, share, 3).boxes.shape == (0, 4)


def spots(height, width):
    """Return many small regions (height, width), four pixels a side with as many between them."""
    rows, columns = ((torch.arange(side) % 8 < 4) for side in (height, width))
    return rows[:, None] & columns


def test_many_regions_need_no_map_each():
    own, share = spots(240, 320), torch.rand(240, 320)
    tracemalloc.start()
    with Largest() as seen:
        found = find_regions(own, share, 16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.points) == 1200 and seen.numbers <= own.numel() and peak < 12 * own.numel()
    cells = share.unfold(0, 4, 8).unfold(1, 4, 8).reshape(-1, 16)
    x, y = found.points.long().unbind(1)
    assert torch.equal(share[y, x], cells.amax(1)) and own[y, x].all()
    assert torch.equal(found.boxes[:, 2:] - found.boxes[:, :2], torch.full((1200, 2), 3.0))


def test_masks_are_brought_to_the_size_of_the_photograph_one_by_one(sam):
    size = (400, 640)
    image, _ = look(sam, photo(*size).permute(1, 2, 0).numpy())
    rule = Prompting(0.2, 4, 0.005, 0.0)
    with Largest() as seen:
        scores = redraw(sam, image, spots(32, 64).repeat_interleave(5, 0)[:, :320], torch.rand(size), rule)
    assert scores.shape == size and (scores > 0).any() and seen.numbers <= scores.numel()


def test_classes_that_are_likely_nowhere_get_no_map(monkeypatch):
    torch.manual_seed(0)
    asked, of = [], ClassShares.of
    monkeypatch.setattr(ClassShares, "of", lambda self, index: asked.append(index) or of(self, index))
    texts = F.normalize(1 + 0.5 * torch.randn(300, 32), dim=1)  # CLIP's are near to one another, too
    places = F.interpolate(3 * torch.randn(1, 6, 2, 3), (5, 6), mode="bilinear").softmax(1)[0]
    features = F.normalize((texts[:6, :, None, None] * places[:, None]).sum(0), dim=0)
    rule, matrices = ScoreRule(40.0), (bilinear_matrix(5, 40).float(), bilinear_matrix(6, 50).float())
    logits = torch.einsum("td,dhw->thw", texts, features)
    everywhere = class_probabilities(logits, *matrices, torch.arange(300), rule)
    shares = ClassShares(logits, *matrices, torch.arange(300), rule)
    found = dict.fromkeys(index for index, *_ in claims(everywhere.argmax(0), shares, Prompting(0.2, 1, 0.005, 0.5)))
    assert len(found) > 2 and len(set(asked)) < 100
    plain = F.interpolate(everywhere[None], (20, 25), mode="bilinear", align_corners=False)[0]
    small = F.interpolate(everywhere.argmax(0)[None, None].float(), (20, 25))[0, 0].masked_fill(plain.amax(0) < 0.2, -2)
    assert list(found) == [k for k in range(300) if plain[k].max() >= 0.2 and (small == k).any()]


def test_the_mask_prompt_fills_the_square_with_the_longer_side():
    found = mask_prompt(torch.full((3, 5), 0.5), (75, 100), 64, 0.2, 0.005)
    assert found.shape == (1, 1, 64, 64) and (found[..., :48, :] == 0.0025).all() and (found[..., 48:, :] == 0).all()
    assert not mask_prompt(torch.full((3, 5), 0.19), (75, 100), 64, 0.2, 0.005).any()


def test_masks_are_those_of_sam_with_a_prompt_that_has_a_batch_axis(sam):
    """By SAM's own predictor; the original's prompt has no such axis, and gives others."""
    size, generator = (104, 160), torch.Generator().manual_seed(0)
    pixels = photo(*size).permute(1, 2, 0).numpy()
    image, _ = look(sam, pixels)
    share = F.interpolate(torch.rand(1, 1, 3, 4, generator=generator), size, mode="bilinear")[0, 0]
    own = spots(*size)[::2, ::2] & (torch.arange(52) < 20)[:, None]
    found = {}
    for name in ("corrected", "original"):
        rule = Prompting(0.3, 4, 50.0, 0.0, name)
        found[name] = next(iter(asked(sam, image, own, share, rule)))
    points, masks, quality = found["corrected"]
    predictor = segment_anything.SamPredictor(sam)
    predictor.set_image(pixels)
    regions, half = find_regions(own, halved(share, (52, 80)), 4), (52, 80)
    logits, wanted, small = predictor.predict_torch(
        predictor.transform.apply_coords_torch(points, half)[:, None],
        torch.ones(len(points), 1),
        predictor.transform.apply_boxes_torch(regions.boxes, half)[: len(points)],
        mask_prompt(halved(share, half), size, 32, 0.3, 50.0),
        multimask_output=False,
        return_logits=True,
    )
    assert 1 < len(points) <= REGIONS_PER_CALL and torch.equal(points, regions.points[: len(points)])
    torch.testing.assert_close(masks, small[:, 0])
    torch.testing.assert_close(quality, wanted[:, 0])
    torch.testing.assert_close(torch.stack([whole_mask(sam, image, one) for one in masks]), logits[:, 0])
    assert (found["original"][1] - masks).abs().max() > 1e-3
    assert Trident(sam=sam, refine=True, mask_prompt="original").options["refined_by"][-1] == "original"


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
    with pytest.raises(ConfigError, match="Trident got 0 photographs of 1 images"):
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
