"""PAMR at the size of the network input: the same numbers as its parts, whatever the size of the photograph."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import ovseg
from ovseg.errors import ConfigError
from ovseg.labelling.scores import upsample
from ovseg.refinement import pamr
from ovseg.vocabulary import Vocabulary

PROTOCOL = {"SHORT_SIDE": 64, "WINDOW": 0, "PAMR_STEPS": 3, "PAMR_DILATIONS": [1, 4], "PAMR_AT": "network"}


def test_equals_its_parts(tiny_clip) -> None:
    model = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": PROTOCOL}}).model
    model.full_scores = True
    model.set_vocabulary(Vocabulary.parse([f"word {i}" for i in range(70)]))  # more than are refined at once
    image = torch.randint(0, 256, (3, 64, 88), dtype=torch.uint8)
    output = model([{"image": image, "height": 150, "width": 201}])[0]

    with torch.inference_mode():
        normalised = model._normalise(image[None])
        plan = model.protocol.plan((64, 88), model.patch_size)
        maps = upsample(model.patch_scores(normalised, plan)[0][0], *plan.matrices((64, 88)))
        refined = pamr(normalised, maps[None], 3, (1, 4))
        full = F.interpolate(refined, (150, 201), mode="bilinear", align_corners=False)[0]
    expected = (model.rule.logit_scale * full).softmax(0)
    torch.testing.assert_close(output["sem_seg"], expected, atol=1e-5, rtol=1e-4)
    assert (output["labels"] == expected.argmax(0)).float().mean() > 0.999


def test_another_place_is_an_error(tiny_clip) -> None:
    with pytest.raises(ConfigError, match="pamr_at is 'photograph'; expected one of output, network"):
        ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": {"PAMR_AT": "photograph"}}})
