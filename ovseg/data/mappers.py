"""From a file on disk to what a model is trained on: Detectron2's dict of one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ovseg.data.augmentation import Augmentation, build_augmentations
from ovseg.data.dataset import Dataset, Segments
from ovseg.data.images import read_image
from ovseg.errors import unknown_name

if TYPE_CHECKING:
    from detectron2.config import CfgNode

MAPPERS = {"semantic": False, "panoptic_lsj": True}
"""Values of ``INPUT.DATASET_MAPPER_NAME``, and whether every segment is a mask of its own."""


class TrainingMapper:
    """Reads an image and its masks, changes both at random, and makes tensors of them.

    Semantic (SAN, MAFT+): one binary mask for each class present. Panoptic (FC-CLIP): one for each thing and for each
    stuff class; crowds are left out.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentations: Sequence[Augmentation],
        per_segment: bool,
        view: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None = None,
    ) -> None:
        """Keep the parts.

        Args:
            dataset: Where records come from.
            augmentations: Applied in order.
            per_segment: One mask per segment instead of one per class.
            view: Given a sample, returns what a model wants besides; picklable.
        """
        self.dataset, self.augmentations, self.per_segment = dataset, augmentations, per_segment
        self.view = view

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """Make one sample.

        Args:
            index: Position of the image in the data set.
            rng: All that is drawn comes from it.

        Returns:
            ``file_name``, ``height`` and ``width`` of the file; ``image`` (3, h, w) uint8 RGB; ``sem_seg`` (h, w) int64
            class ids with void as ``ignore_label``; ``instances`` with ``gt_classes`` (N,) int64 and ``gt_masks``
            (N, h, w) bool. N may be 0.

        Raises:
            InputError: The image or its masks cannot be used.
        """
        from detectron2.structures import Instances

        record = self.dataset.records[index]
        pixels = read_image(record["file_name"]).pixels
        segments = self.dataset.read_segments(record, pixels.shape[:2])
        classes, ids = self._masks(segments)
        image = pixels
        for augmentation in self.augmentations:
            image, ids = augmentation(image, ids, rng)
        present = np.flatnonzero(np.bincount((ids + 1).ravel(), minlength=len(classes) + 1)[1:])
        instances = Instances(ids.shape)
        instances.gt_classes = torch.from_numpy(classes[present])
        instances.gt_masks = torch.from_numpy(ids[None] == present[:, None, None])
        semantic = np.append(classes, self.dataset.ignore_label)[ids]
        sample = {
            "file_name": record["file_name"],
            "height": pixels.shape[0],
            "width": pixels.shape[1],
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "sem_seg": torch.from_numpy(semantic),
            "ignore_label": self.dataset.ignore_label,
            "instances": instances,
        }
        return sample if self.view is None else {**sample, **self.view(sample, rng)}

    def _masks(self, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
        """Return the class (S,) int64 of each mask, and for each pixel (H, W) int32 its mask, -1 for none."""
        if self.per_segment:
            kept = np.flatnonzero(~segments.crowd)
            groups, classes = np.arange(len(kept)), segments.classes[kept]
            source = kept
        else:
            classes, groups = np.unique(segments.classes, return_inverse=True)
            source = np.arange(len(segments.classes))
        places = np.full(len(segments.classes) + 1, -1, np.int32)
        places[source] = groups
        return classes, places[segments.ids]


def build_mapper(
    cfg: CfgNode,
    dataset: Dataset,
    view: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None = None,
) -> TrainingMapper:
    """Build the mapper that ``INPUT`` describes; for ``view`` see `TrainingMapper`.

    Raises:
        ConfigError: A value is not allowed.
        UnknownNameError: No such mapper.
    """
    name = cfg.INPUT.DATASET_MAPPER_NAME
    if name not in MAPPERS:
        raise unknown_name("INPUT.DATASET_MAPPER_NAME", name, MAPPERS)
    return TrainingMapper(dataset, build_augmentations(cfg), MAPPERS[name], view)
