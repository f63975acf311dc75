"""The frozen CLIP: dense features of any open_clip vision transformer, with its last blocks open to a recalibration."""

from ovseg.clip.features import Context, DenseFeatures, Need
from ovseg.clip.frozen import FrozenClip

__all__ = ["Context", "DenseFeatures", "FrozenClip", "Need"]
