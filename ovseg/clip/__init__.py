"""Image-text models: what may be asked of all, and dense features by blocks that a recalibration may run."""

from ovseg.clip.features import Context, DenseFeatures, Need
from ovseg.clip.tower import Tower
from ovseg.clip.vit_clip import ViTClip

__all__ = ["Context", "DenseFeatures", "Need", "Tower", "ViTClip"]
