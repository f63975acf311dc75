"""Released files of tuned CLIPs, which are whole CLIPs, and what a training of ours leaves, which is a part."""

from __future__ import annotations

from ovseg.checkpoint.clip_files import recognise
from ovseg.checkpoint.loading import Weights
from ovseg.clip.base import BaseClip
from ovseg.clip.conv_clip import ConvClip
from ovseg.clip.loading import said_architecture
from ovseg.clip.sources import ClipSource
from ovseg.clip.towers import kind_of
from ovseg.clip.vit_clip import ViTClip

_OURS = ("clip.", "recipe.")


def released(source: ClipSource, weights: Weights) -> BaseClip | None:
    """Return the CLIP of a released file, for the architecture of a source; None where the weights are of ours.

    Raises:
        WeightsError: The file is no CLIP, or does not fit.
    """
    if all(key.startswith(_OURS) for key in weights.state):
        return None
    found = recognise(dict(weights.state), weights.source)
    model_cfg, preprocess = said_architecture(source)
    kind = ConvClip if kind_of(source).reader is ConvClip else ViTClip
    return kind.from_config(model_cfg, found.tensors, weights.source, preprocess)
