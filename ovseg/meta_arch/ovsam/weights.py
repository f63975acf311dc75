"""The released files of Open-Vocabulary SAM: SAM2CLIP, CLIP2SAM, and the prompts of SAM itself."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.config import CfgNode

from ovseg.checkpoint.files import read_state_dict
from ovseg.checkpoint.loading import Weights
from ovseg.checkpoint.strict import translate
from ovseg.clip.architectures import architecture
from ovseg.clip.open_clip_internals import vision_config
from ovseg.meta_arch.ovsam.head import Decoder, Pyramid
from ovseg.meta_arch.ovsam.neck import CELL
from ovseg.meta_arch.section import Section

NECK, PROMPTS = "neck_student.", "prompt_encoder."
FROZEN = r"backbone_student\..*"
"""What the file of SAM2CLIP may hold besides: the CLIP that it was trained on."""


def collect(weights: Weights | None, *, sam2clip: str = "", sam: str = "") -> Weights | None:
    """Put released files together.

    Args:
        weights: All of it, ours; or CLIP2SAM as the authors release it. None for an untrained model.
        sam2clip: The authors' file of the neck; empty where ``weights`` has it.
        sam: SAM's own checkpoint (ViT-H), of which the prompt encoder is read; likewise.

    Raises:
        WeightsError: A file is missing or cannot be read.
    """
    if weights is None:
        return None
    state = dict(weights.state)
    for file, start in ((sam2clip, NECK), (sam, PROMPTS)):
        if file:
            state |= {key: value for key, value in read_state_dict(file).items() if key.startswith(start)}
    return weights._replace(state=state)


def check_head(cls: Any, cfg: CfgNode, weights: Weights) -> None:
    """Check that one of the two released files fits a config, without the weights of CLIP and SAM.

    Raises:
        WeightsError: It does not; says which tensors.
    """
    section, known = Section(cls, cfg), architecture(cfg.MODEL.CLIP.ARCH)
    width = int(vision_config(known, cfg.MODEL.CLIP.ARCH)["width"])
    channels = [width * 4 * 2**i for i in range(4)]
    side, dim = section.make("shape")
    with torch.device("meta"):
        if any(key.startswith(NECK) for key in weights.state):
            parts = {"neck_student": section.make("neck", channels, (side // CELL, side // CELL), dim)}
        else:
            parts = {"fpn_neck": Pyramid(channels, dim), "mask_decoder": Decoder(dim, int(known["embed_dim"]))}
    own = torch.nn.ModuleDict(parts).state_dict()
    translate(own, weights.state, str, weights.source, "Open-Vocabulary SAM", (FROZEN,))
