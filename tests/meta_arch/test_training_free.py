"""Training-free models beyond what all models are held to: what the protocol makes of patch scores."""

from __future__ import annotations

import pytest
import torch

from ovseg.errors import ConfigError
from tests.meta_arch import models
from tests.meta_arch.models import picture, words
from tests.meta_arch.tester import ask

NAMES = ("cat", "sofa|couch", "window")


def build(folder, **protocol):
    return models.build("sclip", folder, protocol={"WINDOW": 48, "STRIDE": 24, **protocol})


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        {"PAMR_STEPS": 2},
        {"PAMR_STEPS": 2, "PAMR_AT": "network"},
        {"WINDOW": 0, "PADDING": "even"},
        {"MIN_MAX": True},
    ],
)
@pytest.mark.parametrize("size", [(100, 133), (31, 40)])
def test_labels_are_the_best_of_the_class_scores(tiny_clip, protocol, size):
    model = build(tiny_clip, **protocol)
    (found,) = ask(model, [picture(64, 85)], model.words(words(*NAMES), "words"), model.gives, size)
    own = found.labels >= 0
    assert own.any()
    assert (found.class_scores.argmax(0)[own] == found.labels[own]).float().mean() > 0.9999
    torch.testing.assert_close(found.class_scores.amax(0)[own], found.scores[own], atol=1e-5, rtol=1e-5)


def test_the_threshold_of_a_policy_and_of_the_protocol(tiny_clip):
    model = build(tiny_clip, PROB_THRESHOLD=1.0, THRESHOLD_LABEL=0)
    vocabulary, image = words(*NAMES), [picture(64, 64)]
    assert (ask(model, image, model.words(vocabulary))[0].labels == 0).all()  # as benchmarks count background
    assert (ask(model, image, model.words(vocabulary, "threshold:1"))[0].labels == -1).all()


def test_a_method_that_sees_the_whole_image_takes_no_windows(tiny_clip):
    with pytest.raises(ConfigError, match="CLIPtrase sees the whole image at once but WINDOW is 48; set it to 0"):
        models.build("clip", tiny_clip, protocol={"WINDOW": 48, "STRIDE": 24}, recalibration={"NAME": "CLIPtrase"})


def test_a_method_that_needs_regions_says_so(deeper_clip):
    with pytest.raises(ConfigError, match=r"CorrCLIP needs regions; set MODEL\.REGIONS\.NAME to a region generator"):
        models.build("clip", deeper_clip, recalibration={"NAME": "CorrCLIP", "OPTIONS": {"GUIDE": "clip"}})
