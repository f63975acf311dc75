"""ConvNeXt image towers of open_clip: levels, and embeddings of single feature vectors."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ovseg.ops.mask_pooling import mask_pool

STAGES = ("res2", "res3", "res4", "res5")


class ConvNeXtTower:
    """An open_clip tower over timm's ConvNeXt."""

    def __init__(self, visual: Any) -> None:
        """Adapt a tower."""
        self.trunk, self.head = visual.trunk, visual.head

    @property
    def channels(self) -> dict[str, int]:
        """Channels of every level."""
        widths = [info["num_chs"] for info in self.trunk.feature_info]
        return {"stem": widths[0], **dict(zip(STAGES, widths, strict=True)), "dense": widths[-1]}

    @property
    def body(self) -> list[nn.Module]:
        """The modules that make the levels, all but the embedding of masks."""
        return [self.trunk.stem, self.trunk.stages]

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """Return all levels of images (B, 3, H, W): ``stem`` and ``res2`` at 1/4, then 1/8, 1/16 and 1/32."""
        x = found = self.trunk.stem(images)
        levels = {"stem": found}
        for name, stage in zip(STAGES, self.trunk.stages, strict=True):
            x = stage(x)  # timm's lie pixel by pixel; heads get them channel by channel, on which kernels round alike
            levels[name] = x.contiguous()
        levels["dense"] = self.trunk.norm_pre(x).contiguous()
        return levels

    def embed(self, vectors: Tensor) -> Tensor:
        """Bring feature vectors (B, N, C) to the joint space (B, N, D), each as CLIP does with the mean of an image."""
        found = self.head(self.trunk.head(vectors.flatten(0, 1)[:, :, None, None]))
        return found.unflatten(0, vectors.shape[:2])

    def pool(self, dense: Tensor, mask_logits: Tensor) -> Tensor:
        """Embed masks: the mean of the dense features inside of each, then the head; an empty mask counts as zeros."""
        return self.embed(mask_pool(dense, mask_logits))
