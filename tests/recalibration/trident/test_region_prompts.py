"""What SAM redraws: regions, prompts, and answers that say the same in labels and scores."""

from __future__ import annotations

import tracemalloc

import pytest
import segment_anything
import torch
import torch.nn.functional as F

from ovseg import Vocabulary
from ovseg.guides.sam_image import look, whole_mask
from ovseg.labelling.scores import ScoreRule, class_probabilities
from ovseg.labelling.shares import ClassShares
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.recalibration.trident import Trident, region_prompts
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
from tests.meta_arch.tester import Largest
from tests.recalibration.trident.small import FOUR, answers_of, build, photo


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
