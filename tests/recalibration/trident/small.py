"""A small SAM, models with it, and photographs."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration.trident import Trident
from tests.small_sam import small_sam

FOUR = ["cat", "sofa", "tree", "river"]
SIDE = 128


tiny_sam = partial(small_sam, side=SIDE, depth=2, window=3, looking_at_all=(1,))


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


def answers_of(models, words_of, height=70, width=90, background="none"):
    found = []
    for model in models:
        words = model.words(words_of, background=background)
        encoded = model.encode([photo(height, width)])
        found.append(model.answer(encoded, 0, (height, width), words, LABELS | {CLASS_SCORES}))
    return found
