"""Tensor operations that models share: deformable attention, mask pooling, and labels from patch scores."""

from ovseg.ops.class_argmax import class_argmax
from ovseg.ops.mask_pooling import mask_pool, resize_masks
from ovseg.ops.ms_deform_attn import ms_deform_attn

__all__ = ["class_argmax", "mask_pool", "ms_deform_attn", "resize_masks"]
