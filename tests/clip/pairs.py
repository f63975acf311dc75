"""Which method fits which family of towers: computed from what each says, and built as the product builds it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from unittest import mock

from detectron2.config import CfgNode

from ovseg.clip import ClipSource, Tower
from ovseg.clip.ensemble import Ensemble
from ovseg.clip.tokens import Fitting
from ovseg.config import load_config
from ovseg.meta_arch import complete
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration import list_recalibrations, recalibration_class
from ovseg.zoo.names import method_config
from tests.clip.towers import TOWERS, Builder

BLOCKS = 8
"""So many have the towers: one or two more than the method that takes over most of a number that it fixes."""
SIZE = {"SHORT_SIDE": 64, "LONG_SIDE": 128, "WINDOW": 0}


def ensemble(blocks: int) -> Tower:
    """Build an ensemble of towers of two families, with patches of 16 and of 14 pixels."""
    return Ensemble(TOWERS[family](blocks) for family in ("ViT (OpenAI, LAION, MetaCLIP, DFN)", "EVA-01"))


FAMILIES: dict[str, Builder] = {**TOWERS, "an ensemble (clip:A+B)": ensemble}


@functools.cache
def tower(family: str) -> Tower:
    """Return the narrowed tower of a family, built once; nobody may change it."""
    return FAMILIES[family](BLOCKS)


@functools.cache
def fits(method: str, family: str) -> bool:
    """Tell whether a method runs on the towers of a family; on an ensemble if it does on each member."""
    found = tower(family)
    towers = found.towers if isinstance(found, Ensemble) else [found]
    return all(recalibration_class(method).requires <= one.has for one in towers)


def fitting() -> list[tuple[str, str]]:
    """Return all pairs of a method and a family that fit."""
    return [(method, family) for family in FAMILIES for method in list_recalibrations() if fits(method, family)]


def unfit() -> list[tuple[str, str]]:
    """Return all other pairs."""
    return [(method, family) for family in FAMILIES for method in list_recalibrations() if not fits(method, family)]


def build(method: str, clip: Tower) -> TrainingFree:
    """Build a model of a method's own config on a tower; second backbones, which are files, are the tower itself."""
    model = {"TEXT": {"TEMPLATES": "simple", "BACKGROUND": "none"}, "PROTOCOL": SIZE}
    cfg = load_config(method_config(method), {"MODEL": model})
    cfg.defrost()
    options, regions = cfg.MODEL.RECALIBRATION.OPTIONS, cfg.MODEL.REGIONS
    cfg.MODEL.RECALIBRATION.NAME = method
    if options.pop("GUIDE", "") and method != "CLIPer":  # which wants one that diffuses, or none
        options.GUIDE = "clip"
    for file in ("WEIGHTS", "UPSAMPLER", "SAM"):
        options.pop(file, None)
    regions.NAME, regions.OPTIONS = "MeanShift" if recalibration_class(method).uses_regions else "", CfgNode()

    def load(source: ClipSource, needs: Iterable[str], who: str, fitting: Fitting | None = None) -> Tower:
        for one in clip.towers if isinstance(clip, Ensemble) else [clip]:
            one.check(needs, who, fitting)
        return clip

    with mock.patch("ovseg.meta_arch.training_free.load_towers", load):
        return TrainingFree(complete(cfg))
