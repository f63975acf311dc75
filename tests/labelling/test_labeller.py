"""PAMR at the size of the network input: the same numbers as its parts, whatever the size of the photograph."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import ovseg
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.errors import ConfigError
from ovseg.labelling.scores import upsample
from ovseg.ops import late_scores
from ovseg.refinement import pamr
from tests.meta_arch.tester import Largest

PROTOCOL = {"SHORT_SIDE": 64, "WINDOW": 0, "PAMR_STEPS": 3, "PAMR_DILATIONS": [1, 4], "PAMR_AT": "network"}


def test_equals_its_parts(tiny_clip) -> None:
    segmenter = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": PROTOCOL}})
    words, model = segmenter.words([f"word {i}" for i in range(70)]), segmenter.model  # more than are refined at once
    image = torch.randint(0, 256, (3, 64, 88), dtype=torch.uint8)
    encoded = model.encode([image])
    answer = model.answer(encoded, 0, (150, 201), words, LABELS | {CLASS_SCORES})

    with torch.inference_mode():
        normalised, plan = model.normalise(image[None]), model.protocol.plan((64, 88), model.clip.patch_size)
        maps = upsample(model.patch_scores(encoded.images[0], words), *plan.matrices((64, 88)))
        refined = pamr(normalised, maps[None], 3, (1, 4))
        full = F.interpolate(refined, (150, 201), mode="bilinear", align_corners=False)[0]
    expected = (model.rule.logit_scale * full).softmax(0)
    torch.testing.assert_close(answer.class_scores, expected, atol=1e-5, rtol=1e-4)
    assert (answer.labels == expected.argmax(0)).float().mean() > 0.999


def test_another_place_is_an_error(tiny_clip) -> None:
    with pytest.raises(ConfigError, match="pamr_at is 'photograph'; expected one of output, network, window"):
        ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": {"PAMR_AT": "photograph"}}})


def test_in_windows_equals_its_parts(tiny_clip) -> None:
    """Each window is refined by its own pixels, then they are averaged (Talk2DINO)."""
    changes = {"WINDOW": 48, "STRIDE": 24, "CORNERS": True, "PAMR_AT": "window"}
    segmenter = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": {**PROTOCOL, **changes}}})
    words, model = segmenter.words([f"word {i}" for i in range(70)]), segmenter.model
    image = torch.randint(0, 256, (3, 64, 88), dtype=torch.uint8)
    encoded = model.encode([image])
    answer = model.answer(encoded, 0, (150, 201), words, LABELS | {CLASS_SCORES})
    with torch.inference_mode():
        normalised, plan = model.normalise(image[None]), model.protocol.plan((64, 88), model.clip.patch_size)
        scores = model.patch_scores(encoded.images[0], words)
        total, count = torch.zeros(70, 64, 88), torch.zeros(64, 88)
        for i, top in enumerate(plan.rows.starts):
            for j, left in enumerate(plan.columns.starts):
                own = normalised[..., top : top + 48, left : left + 48]
                cells = scores[None, :, 6 * i : 6 * i + 6, 6 * j : 6 * j + 6]
                maps = F.interpolate(cells, (48, 48), mode="bilinear", align_corners=True)
                total[:, top : top + 48, left : left + 48] += pamr(own, maps, 3, (1, 4))[0]
                count[top : top + 48, left : left + 48] += 1
        full = F.interpolate((total / count)[None], (150, 201), mode="bilinear", align_corners=False)[0]
    assert len(plan) == 6
    expected = (model.rule.logit_scale * full).softmax(0)
    torch.testing.assert_close(answer.class_scores, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"WINDOW": 48, "STRIDE": 24, "PAMR_AT": "window", "SOFTMAX": False}])
def test_many_words_are_refined_a_few_at_a_time(tiny_clip, monkeypatch, changes) -> None:
    """Nobody holds the refined maps of all of them, and all that is made of these is the same."""
    segmenter = ovseg.load(
        tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": {**PROTOCOL, "PAMR_STEPS": 1, **changes}}}
    )
    asked, model = [segmenter.words([f"word {i}" for i in range(count)]) for count in (60, 25)], segmenter.model
    encoded, size = model.encode([torch.randint(0, 256, (3, 64, 88), dtype=torch.uint8)]), (60, 85)
    whole = [model.answer(encoded, 0, size, words, LABELS | {CLASS_SCORES}) for words in asked]
    told = model.explain(encoded, 0, size, asked[1], (31, 40))
    monkeypatch.setattr(late_scores, "AT_ONCE", 7 * 64 * 88)
    few = [model.answer(encoded, 0, size, words, LABELS | {CLASS_SCORES}) for words in asked]
    for found, wanted in zip(few, whole, strict=True):
        assert (found.labels == wanted.labels).float().mean() > 0.999
        torch.testing.assert_close(found.scores, wanted.scores, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.class_scores, wanted.class_scores, atol=1e-5, rtol=1e-4)
    found = model.explain(encoded, 0, size, asked[1], (31, 40))
    torch.testing.assert_close(found.scores, told.scores, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr("ovseg.labelling.scores._CHUNK", 2**16)
    with Largest() as largest:
        model.answer(encoded, 0, size, asked[0])
    assert largest.numbers < 25 * 64 * 88


def test_regions_share_labels_of_words_that_are_refined_a_few_at_a_time(tiny_clip, monkeypatch) -> None:
    changes = {"PROTOCOL": {**PROTOCOL, "REGION_RULE": "mean"}, "REGIONS": {"NAME": "MeanShift"}}
    segmenter = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": changes})
    words, model = segmenter.words([f"word {i}" for i in range(40)]), segmenter.model
    encoded = model.encode([torch.randint(0, 256, (3, 64, 88), dtype=torch.uint8)])
    wanted = model.answer(encoded, 0, (64, 88), words)
    monkeypatch.setattr(late_scores, "AT_ONCE", 13 * 64 * 88)
    assert (model.answer(encoded, 0, (64, 88), words).labels == wanted.labels).float().mean() > 0.999
