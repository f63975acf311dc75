"""CLIPSeg: a small decoder that gives a map for each prompt, a text or a picture."""

from ovseg.meta_arch.clipseg.model import CLIPSeg

__all__ = ["CLIPSeg"]
