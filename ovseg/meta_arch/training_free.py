"""The training-free architecture: a frozen CLIP, a recalibration of its last blocks, and the protocol around them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ovseg.clip import ClipSource, load_towers
from ovseg.clip.ensemble import Ensemble
from ovseg.meta_arch.dense_model import DenseModel, view_of
from ovseg.meta_arch.members import OverMembers
from ovseg.meta_arch.section import lower_keys
from ovseg.recalibration import RECALIBRATIONS
from ovseg.regions import REGIONS
from ovseg.system.registry import build


@META_ARCH_REGISTRY.register()
class TrainingFree(DenseModel):
    """Labels every pixel by the cosine of CLIP's recalibrated patch features with the words."""

    @configurable
    def __init__(self, **parts: Any) -> None:
        """Put the parts together, see `DenseModel`; a Detectron2 config is accepted in their place."""
        super().__init__(**parts)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names."""
        options, generator = cfg.MODEL.RECALIBRATION, cfg.MODEL.REGIONS
        recalibration = build(RECALIBRATIONS, options.NAME, lower_keys(options.OPTIONS, "MODEL.RECALIBRATION.OPTIONS"))
        source, fitting = ClipSource.of(cfg.MODEL.CLIP), recalibration.fitting
        clip = load_towers(source, recalibration.requires, recalibration.name, fitting=fitting)
        view = view_of(cfg, clip)
        return {
            **cls.around(cfg),
            "clip": clip,
            "size_rule": replace(view, aspect="photo") if recalibration.sees_photo else view,
            "view": view if recalibration.sees_photo else None,
            "recalibration": OverMembers(recalibration) if isinstance(clip, Ensemble) else recalibration,
            "regions": build(REGIONS, generator.NAME, lower_keys(generator.OPTIONS, "MODEL.REGIONS.OPTIONS"))
            if generator.NAME
            else None,
        }
