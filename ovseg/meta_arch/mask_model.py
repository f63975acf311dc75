"""What the architectures that propose masks share: targets of training, and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ovseg.contract import Evidence, Words
from ovseg.errors import ConfigError
from ovseg.labelling.evidence import of_masks
from ovseg.labelling.mask_resize import MaskResize, plan_resize
from ovseg.labelling.prompts import Found, Prompt, of_proposals
from ovseg.losses.matcher import Target
from ovseg.meta_arch.by_example import Glimpse, pooled_masks
from ovseg.meta_arch.trained_model import TrainedModel


class MaskModel(TrainedModel):
    """A CLIP and trained parts that propose masks."""

    kind: ClassVar[str] = "masks"

    def shares(self, seen: Any, words: Words) -> Tensor:
        """Return the class probabilities (Q, C + 1) of the masks of an image, "no object" last."""
        raise NotImplementedError

    def cosines(self, seen: Any, words: Words) -> Tensor:
        """Return how near each mask of an image is to each row of the words (Q, T); of a class's names one is next."""
        raise NotImplementedError

    def mask_embeddings(self, seen: Any) -> Tensor:
        """Return what words are compared with of each mask of an image (Q, D), of any length."""
        raise NotImplementedError

    def look_at(self, seen: Any, network_size: tuple[int, int], mask: Tensor) -> Glimpse:
        """Take the proposal that is most like the mask; see `WordedModel.look_at`."""
        high, wide = (padded - side for padded, side in zip(seen.padded, mask.shape, strict=True))
        padded = F.pad(mask[None, None].float(), (0, wide, 0, high))
        wanted = F.adaptive_avg_pool2d(padded, (seen.masks.shape[1], seen.masks.shape[2]))[0, 0]
        return pooled_masks(self.mask_embeddings(seen), seen.masks.sigmoid(), wanted)

    def resize(self, seen: Any, network_size: tuple[int, int], size: tuple[int, int]) -> MaskResize:
        """Return the way of the masks of an image to its photograph."""
        return plan_resize((seen.masks.shape[1], seen.masks.shape[2]), seen.padded, network_size, size)

    def evidence(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, point: tuple[int, int]
    ) -> Evidence:
        """Look at the masks that have a pixel, and at their names; see `WordedModel.evidence`."""
        shares, resize = self.shares(seen, words), self.resize(seen, network_size, size)
        return of_masks(shares, self.cosines(seen, words), seen.masks, resize, words, point)

    def point_at(
        self, seen: Any, network_size: tuple[int, int], size: tuple[int, int], words: Words, prompt: Prompt
    ) -> Found:
        """Find the proposal that a prompt means, and its names; the other arguments are those of `label`."""
        shares, resize = self.shares(seen, words), self.resize(seen, network_size, size)
        return of_proposals(shares, seen.masks, resize, prompt)


def read_targets(inputs: Sequence[dict[str, Any]], images: Tensor) -> list[Target]:
    """Read what is to be found from Detectron2's training inputs.

    Args:
        inputs: Each with ``instances`` (Detectron2's, with ``gt_classes`` (N,) and ``gt_masks`` as bit masks (N, h, w))
            or with ``sem_seg`` (h, w), whose classes become a mask each; ``ignore_label`` is the id of its pixels
            without a label (255 unless it says otherwise; a data set of more classes has 65535).
        images: The padded batch (B, 3, H, W).

    Raises:
        ConfigError: An image has neither.
    """
    size = (images.shape[2], images.shape[3])
    found = []
    for entry in inputs:
        if "instances" in entry:
            masks = getattr(entry["instances"].gt_masks, "tensor", entry["instances"].gt_masks)
            padded = F.pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]))
            target = Target(entry["instances"].gt_classes, padded)
        elif "sem_seg" in entry:
            target = semantic_target(entry["sem_seg"], size, entry.get("ignore_label", 255))
        else:
            raise ConfigError(f"a training image has {sorted(entry)}; expected 'instances' or 'sem_seg' among them")
        found.append(Target(target.labels.to(images.device), target.masks.to(images.device)))
    return found


def semantic_target(labels: Tensor, size: tuple[int, int], ignore: int = 255) -> Target:
    """Make one mask of each class that a label map shows.

    Args:
        labels: (H, W) class ids.
        size: Of the padded batch; what is added and what is ignored belongs to no mask.
        ignore: Id of pixels without a label.
    """
    padded = F.pad(labels.long(), (0, size[1] - labels.shape[1], 0, size[0] - labels.shape[0]), value=ignore)
    classes = padded.unique()
    classes = classes[classes != ignore]
    return Target(classes, padded == classes[:, None, None])
