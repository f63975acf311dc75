"""Tensor operations that several models share: multi-scale deformable attention and mask pooling."""

from ovseg.ops.mask_pooling import mask_pool, resize_masks
from ovseg.ops.ms_deform_attn import ms_deform_attn

__all__ = ["mask_pool", "ms_deform_attn", "resize_masks"]
