"""The image encoder of SAM as a guide, and the one place that loads SAM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.checkpoint.files import read_state_dict
from ovseg.checkpoint.hashing import hash_tensors
from ovseg.checkpoint.strict import load_strict
from ovseg.clip.features import Context
from ovseg.clip.normalise import normalise
from ovseg.errors import ConfigError, EnvironmentProblem, unknown_name
from ovseg.guides.base import GUIDE_REGISTRY, IMAGENET_MEAN, IMAGENET_STD, Guide

SAM_TYPES = ("vit_b", "vit_h", "vit_l")


class SamGuide(Guide):
    """What leaves the neck of SAM's image encoder: 256 channels on 64 x 64 cells, whatever the size of the image.

    Images are stretched to SAM's own square, as ProxyCLIP does; SAM itself would keep their shape and pad.
    """

    def __init__(self, encoder: Any) -> None:
        """Adapt an image encoder of segment_anything."""
        super().__init__()
        self.encoder = encoder

    def forward(self, context: Context) -> Tensor:
        """Return features (B, C, h, w)."""
        side = self.encoder.img_size
        images = F.interpolate(context.rgb, size=(side, side), mode="bilinear", align_corners=False)
        images = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
        return self.encoder(images.to(self.encoder.patch_embed.proj.weight.dtype))


@GUIDE_REGISTRY.register()
def sam(*, argument: str = "", facet: str = "token") -> Guide:
    """Build the guide ``sam:TYPE@FILE``."""
    kind, _, file = argument.partition("@")
    if facet != "token" or not file:
        got = f"the facet {facet}" if facet != "token" else f"'sam:{argument}'"
        raise ConfigError(
            f"guide sam got {got}; expected the facet token of for example sam:vit_b@sam_vit_b_01ec64.pth"
        )
    return SamGuide(load_sam(kind, file).image_encoder)


class Apart:
    """A SAM beside the modules of a model, whose dtype it does not follow, for its decoder needs single precision.

    Attributes:
        hash: Of its weights; empty without one.
    """

    def __init__(self, sam: Any) -> None:
        """Keep a SAM, or None."""
        self._sam = sam
        self.hash = "" if sam is None else hash_tensors(sam.state_dict().items())

    def get(self, device: torch.device) -> Any:
        """Return it on a device; None without one."""
        return None if self._sam is None else self._sam.to(device)


def load_named_sam(name: str) -> Any:
    """Load the SAM of a name ``TYPE@FILE``; see `load_sam`.

    Raises:
        ConfigError: It has another form.
    """
    kind, _, file = name.partition("@")
    if not file:
        raise ConfigError(f"sam is '{name}'; expected TYPE@FILE, for example vit_b@sam_vit_b_01ec64.pth")
    return load_sam(kind, file)


def load_sam(kind: str, file: str | Path) -> Any:
    """Load a SAM of segment_anything, on the CPU.

    Args:
        kind: ``vit_b``, ``vit_l`` or ``vit_h``.
        file: An official checkpoint.

    Raises:
        UnknownNameError: No such kind.
        WeightsError: The file is missing or does not fit.
        EnvironmentProblem: segment_anything cannot be imported.
    """
    if kind not in SAM_TYPES:
        raise unknown_name("SAM type", kind, SAM_TYPES)
    state = read_state_dict(file)
    try:
        from segment_anything import sam_model_registry
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(
            f"cannot import segment_anything ({reason}); run `pip install segment-anything`"
        ) from error
    model = sam_model_registry[kind]()
    load_strict(model, state, str(file), f"SAM {kind}")
    return model.eval().requires_grad_(False)
