"""PixelCLIP: a CLIP taught by masks that have no names."""

from ovseg.meta_arch.pixelclip.model import TunedPixelCLIP

__all__ = ["TunedPixelCLIP"]
