"""Image-text models: what may be asked of all, and dense features by blocks that a recalibration may run."""

from ovseg.clip.features import Context, DenseFeatures, Need
from ovseg.clip.sources import ClipSource
from ovseg.clip.tower import Tower
from ovseg.clip.towers import load_tower, load_towers
from ovseg.clip.vit_clip import ViTClip

__all__ = ["ClipSource", "Context", "DenseFeatures", "Need", "Tower", "ViTClip", "load_tower", "load_towers"]
