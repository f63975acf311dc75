"""Every fitting pair of a method and a family of towers runs through the product's path; the others are refused."""

from __future__ import annotations

import functools

import pytest
import torch

from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.errors import ConfigError
from ovseg.recalibration import list_recalibrations, recalibration_class
from ovseg.system.device import CPU
from tests.clip.pairs import BLOCKS, FAMILIES, build, fits, fitting, tower, unfit
from tests.clip.towers import TOWERS
from tests.meta_arch.models import picture, words
from tests.meta_arch.tester import ask, assert_near

WANT = LABELS | {CLASS_SCORES}
IMAGES = [picture(64, 96, seed=1), picture(70, 101, seed=2), picture(64, 96, seed=3)]


def named(pairs):
    return pytest.mark.parametrize(("method", "family"), pairs, ids=[f"{method}-{family}" for method, family in pairs])


@named(fitting())
def test_a_fitting_pair_answers(method, family):
    """A batch gives what singles give, odd sizes too; bfloat16 gives nearly that."""
    model = build(method, tower(family))
    asked = model.words(words("cat", "sofa|couch", "window"))
    together = ask(model, IMAGES, asked, WANT)
    alone = [ask(model, [image], asked, WANT)[0] for image in IMAGES[:2]]
    for one, other in zip(alone, together[:2], strict=True):
        assert_near(one, other, 1e-3)  # of probabilities, at scales of 40 and more
    assert together[1].labels.shape == (70, 101) and bool(together[1].class_scores.isfinite().all())


@functools.cache
def lowered(family):
    return FAMILIES[family](BLOCKS)


@named(fitting())
def test_half_precision(method, family):
    full = build(method, tower(family))
    half = build(method, lowered(family)).place(CPU, torch.bfloat16)
    with torch.inference_mode():
        seen = [model.see(IMAGES[0][None])[0].parts[0][0].features.float() for model in (full, half)]
    asked = half.words(words("cat", "sofa|couch", "window"))
    assert bool(ask(half, IMAGES[:1], asked, WANT)[0].class_scores.isfinite().all())
    assert torch.cosine_similarity(*seen, dim=1).min() > 0.98


@named(unfit())
def test_an_unfit_pair_is_refused_in_one_sentence(method, family):
    with pytest.raises(ConfigError, match=rf"^{method} needs .*, which .* has not; use .* such as ") as error:
        build(method, tower(family))
    text = str(error.value)
    assert "\n" not in text
    others = [name for name in list_recalibrations() if fits(name, family)]
    assert not others or text.endswith(f"or what runs on this one: {', '.join(others)}")


def test_what_fits_what():
    """Which families a method runs on is no accident of the table."""
    everywhere = {name for name in list_recalibrations() if all(fits(name, family) for family in TOWERS)}
    assert everywhere == {"CLIP", "MaskCLIP", "PixelCLIP", "RedCircle"}
    vits = [family for family in TOWERS if recalibration_class("SCLIP").requires <= tower(family).has]
    assert len(vits) >= 10 and not {"ResNet", "ConvNeXt"} & set(vits)
    assert len(fitting()) >= 200
