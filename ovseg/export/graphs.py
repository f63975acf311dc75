"""A model as one graph: an image and words in; what was seen, what words make of it and, if wanted, labels out."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovseg.export.labels import label_maps, label_masks, label_patches
from ovseg.export.naming import MapNaming, MaskNaming, PatchNaming, Rows
from ovseg.labelling.views import views
from ovseg.meta_arch.cat_seg import CATSeg
from ovseg.meta_arch.cat_seg import aggregator as cat_seg
from ovseg.meta_arch.conv_mask_model import ConvMaskModel
from ovseg.meta_arch.cost_model import CostModel
from ovseg.meta_arch.fcclip.model import FCCLIP
from ovseg.meta_arch.san.model import SAN
from ovseg.meta_arch.sed import decoder as sed
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.ops.any_size import AnyAxis, cut, resize_photo

Model = TrainingFree | SAN | ConvMaskModel | CostModel


class Shape(NamedTuple):
    """What goes into a graph and comes out of it.

    Attributes:
        size: The one size (height, width) in pixels; None for all sizes.
        photo: Whether images are photographs (H, W, 3) uint8 of any size, and not (1, 3, h, w) float32.
        labels: Whether labels and scores of every pixel of the image come out, too.
    """

    size: tuple[int, int] | None
    photo: bool
    labels: bool


class MaskParts(NamedTuple):
    """What a model with masks has seen, as it comes out of a graph; see the `Proposed` of the models."""

    embeddings: Tensor
    masks: Tensor
    pooled: Tensor | None = None
    looks: Tensor | None = None


class PatchGraph(nn.Module):
    """A training-free model as a graph; its inputs are those of `FileCard.inputs`."""

    seen_names = ("features", "cls")

    def __init__(self, model: TrainingFree, shape: Shape) -> None:
        super().__init__()
        self.model, self.shape, self.naming = model, shape, PatchNaming(model)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return (*self.seen_names, *self.naming.names, *(("labels", "scores") if self.shape.labels else ()))

    def forward(self, image: Tensor, text_embeddings: Tensor, query_to_class: Tensor) -> tuple[Tensor, ...]:
        """Run everything."""
        pixels, size = _pixels(image, self.shape)
        axes = self._axis(pixels.shape[2]), self._axis(pixels.shape[3])
        seen = self.see(pixels, axes)
        named = self.naming(*seen, Rows(text_embeddings, query_to_class))
        if not self.shape.labels:
            return (*seen, *named)
        return (*seen, *named, *label_patches(named[0], axes, size, query_to_class, self.model.rule))

    def see(self, pixels: Tensor, axes: tuple[AnyAxis, AnyAxis]) -> tuple[Tensor, Tensor]:
        """Return features (V, N, D, h, w) and embeddings (V, N, D) of the windows of an image, in V views."""
        windows = cut(self.model.normalise(pixels), *axes)
        shown = views(windows, None) if self.model.protocol.image_engineering else [(windows, None)]
        found = [self.model.network(*view) for view in shown]
        return torch.stack([one.features.float() for one in found]), torch.stack([one.cls.float() for one in found])

    def _axis(self, length: int) -> AnyAxis:
        protocol, patch = self.model.protocol, self.model.clip.patch_size
        crop = protocol.window if not isinstance(length, int) else min(protocol.window, length)
        size = crop or length
        missing = 0 if protocol.padding == "none" else -size % (protocol.pad_multiple or patch)
        before = missing // 2 if protocol.padding == "even" else 0
        direct = not protocol.window and protocol.padding == "none" and protocol.resize == "once"
        around = (before, missing - before)
        return AnyAxis(length, crop, protocol.stride, *around, protocol.padding != "even", direct)


class MaskGraph(nn.Module):
    """A model that proposes masks as a graph; its inputs are those of `FileCard.inputs`."""

    def __init__(self, model: SAN | ConvMaskModel, shape: Shape) -> None:
        super().__init__()
        self.model, self.shape, self.naming = model, shape, MaskNaming(model)
        looks = isinstance(model, ConvMaskModel) and (not isinstance(model, FCCLIP) or model.ensemble.valid_masks_only)
        more = () if isinstance(model, SAN) else ("mask_pooled", "mask_looks") if looks else ("mask_pooled",)
        self.seen_names = ("mask_embeddings", "mask_logits", *more)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return (*self.seen_names, *self.naming.names, *(("labels", "scores") if self.shape.labels else ()))

    def forward(
        self, image: Tensor, text_embeddings: Tensor, query_to_class: Tensor, trained: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Run everything."""
        pixels, size = _pixels(image, self.shape)
        found: Any = self.model.see(pixels)[0]
        seen = MaskParts(found.embeddings, found.masks, getattr(found, "pooled", None), getattr(found, "looks", None))
        named = self.naming(seen, Rows(text_embeddings, query_to_class), trained)
        outputs = (*(part for part in seen if part is not None), *named)
        if not self.shape.labels:
            return outputs
        sizes = found.padded, (pixels.shape[2], pixels.shape[3]), size
        first = isinstance(self.model, ConvMaskModel) and not self.model.rule.objects
        return (*outputs, *label_masks(named[0], seen.masks, sizes, query_to_class, first))


class MapGraph(nn.Module):
    """A model that makes a map for every word as a graph; its inputs are those of `FileCard.inputs`.

    Where an image is seen in windows, the graph is that of one of them.
    """

    def __init__(self, model: CostModel, shape: Shape) -> None:
        super().__init__()
        self.model, self.shape, self.naming = model, shape, MapNaming(model)
        self.seen_names = (cat_seg.View if isinstance(model, CATSeg) else sed.View)._fields

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all outputs."""
        return (*self.seen_names, *self.naming.names, *(("labels", "scores") if self.shape.labels else ()))

    def forward(self, image: Tensor, text_embeddings: Tensor, query_to_class: Tensor) -> tuple[Tensor, ...]:
        """Run everything."""
        pixels, size = _pixels(image, self.shape)
        model: Any = self.model
        normal = model.normalise(pixels)
        seen = model.network(normal if model.sliding is not None else model.views(normal))
        (logits,) = self.naming(seen, Rows(text_embeddings, query_to_class))
        if not self.shape.labels:
            return (*seen, logits)
        return (*seen, logits, *label_maps(logits, size, query_to_class))


Graph = PatchGraph | MaskGraph | MapGraph


class Naming(nn.Module):
    """The part of a graph that words come into, by itself: inputs are what was seen, then those of words."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.naming, self.count = graph.naming, len(graph.seen_names)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Name what was seen."""
        seen, (embeddings, classes, *trained) = inputs[: self.count], inputs[self.count :]
        rows = Rows(embeddings, classes)
        if isinstance(self.naming, PatchNaming):
            return self.naming(*seen, rows)
        if isinstance(self.naming, MapNaming):
            return self.naming(seen, rows)
        return self.naming(MaskParts(*seen), rows, trained[0] if trained else None)


def _pixels(image: Tensor, shape: Shape) -> tuple[Tensor, tuple[int, int]]:
    """Return what the network sees, (1, 3, h, w) of 0..255, and the size of the image that came."""
    if shape.photo and shape.size is not None:
        return resize_photo(image, shape.size), (image.shape[0], image.shape[1])
    return image, (image.shape[2], image.shape[3])
