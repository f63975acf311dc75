"""OVSeg: proposed masks are cut out and named by a CLIP that knows masked pictures."""

from ovseg.meta_arch.ov_seg.model import OVSeg

__all__ = ["OVSeg"]
