"""Talk2DINO: the model, its projection and how that is taught."""

from ovseg.meta_arch.talk2dino.model import Talk2DINO

__all__ = ["Talk2DINO"]
