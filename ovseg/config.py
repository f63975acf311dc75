"""Our part of the Detectron2 configuration: which CLIP, which recalibration, which protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ovseg.errors import ConfigError

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_ovseg_config(cfg: CfgNode) -> None:
    """Add our defaults to a Detectron2 config.

    ``MODEL.CLIP`` says where the CLIP comes from, ``MODEL.RECALIBRATION`` what a training-free method changes in it,
    ``MODEL.TEXT`` how words are embedded, ``MODEL.PROTOCOL`` everything that papers set per benchmark: the size rule,
    windows, padding, logit scale, thresholds and refinement.
    """
    from detectron2.config import CfgNode as Node

    cfg.MODEL.META_ARCHITECTURE = "TrainingFree"
    cfg.MODEL.CLIP = Node()
    cfg.MODEL.CLIP.ARCH = "ViT-B-16"
    cfg.MODEL.CLIP.PRETRAINED = "openai"  # a tag of open_clip or the path of a file
    cfg.MODEL.CLIP.FOLDER = ""  # a folder with open_clip_config.json takes the place of the two above
    cfg.MODEL.RECALIBRATION = Node()
    cfg.MODEL.RECALIBRATION.NAME = "CLIP"
    cfg.MODEL.RECALIBRATION.OPTIONS = Node(new_allowed=True)
    cfg.MODEL.TEXT = Node()
    cfg.MODEL.TEXT.TEMPLATES = "openai80"
    cfg.MODEL.TEXT.BACKGROUND = "none"
    protocol = cfg.MODEL.PROTOCOL = Node()
    protocol.SHORT_SIDE = 336  # pixels; the longer side follows, up to LONG_SIDE
    protocol.LONG_SIDE = 2048
    protocol.WINDOW = 224  # side of a sliding window in pixels; 0 is the whole image
    protocol.STRIDE = 112
    protocol.PADDING = "none"  # none | corner | even
    protocol.LOGIT_SCALE = 40.0
    protocol.PROB_THRESHOLD = 0.0
    protocol.THRESHOLD_LABEL = -1  # what pixels under the threshold get: -1 no class, 0 as the benchmarks' background
    protocol.AREA_THRESHOLD = 0.0
    protocol.MIN_MAX = False
    protocol.PAMR_STEPS = 0
    protocol.PAMR_DILATIONS = (8, 16)


def config_root() -> Path:
    """Return the folder of the shipped YAML files: ``configs/`` of a checkout, or its copy in an installed package."""
    package = Path(__file__).parent
    checkout = package.parent / "configs"
    return checkout if (checkout / "training_free").is_dir() else package / "zoo" / "configs"


def load_config(path: str | Path, overrides: dict[str, Any] | None = None) -> CfgNode:
    """Read a YAML config (with ``_BASE_``) over Detectron2's and our defaults.

    Args:
        path: The file.
        overrides: Nested mapping in the shape of the config, applied last.

    Raises:
        ConfigError: The file is missing, is no YAML, or has unknown keys or values of the wrong type.
    """
    from detectron2.config import CfgNode as Node
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_ovseg_config(cfg)
    if not Path(path).is_file():
        raise ConfigError(f"no config file '{path}'; expected a YAML file such as configs/training_free/sclip.yaml")
    try:
        cfg.merge_from_file(str(path))
        if overrides:
            cfg.merge_from_other_cfg(Node(overrides))
    except (KeyError, ValueError, AssertionError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"config '{path}' cannot be used: {text}; see the keys in ovseg/config.py") from error
    cfg.freeze()
    return cfg
