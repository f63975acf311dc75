"""Recipes by which a CLIP is tuned: each file registers one, by being here; see `ovseg.meta_arch.tuned_clip.recipe`."""

from ovseg.meta_arch.tuned_clip.recipe import RECIPES
from ovseg.system.registry import register_all

register_all(__name__)

__all__ = ["RECIPES"]
