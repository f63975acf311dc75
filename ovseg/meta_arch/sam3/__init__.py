"""SAM 3: the model, its network taken apart, how its phrases are read and fused, and how its checkpoints are read."""

from ovseg.meta_arch.sam3.model import SAM3

__all__ = ["SAM3"]
