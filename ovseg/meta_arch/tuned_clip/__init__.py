"""A CLIP that is tuned for dense features, and the recipes by which it is; see `ovseg.meta_arch.tuned_clip.recipe`."""

from ovseg.meta_arch.tuned_clip.model import TunedClip

__all__ = ["TunedClip"]
