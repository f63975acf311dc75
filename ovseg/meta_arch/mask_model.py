"""What the architectures that propose masks share: size rule, padded batches, targets of training, and results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from torch import Tensor

from ovseg.device import to_device
from ovseg.errors import ConfigError
from ovseg.losses.matcher import Target
from ovseg.mask_postprocess import MaskResize, class_maps, plan_resize, semantic_map
from ovseg.meta_arch.section import Sectioned
from ovseg.meta_arch.words import WordedModel
from ovseg.ops.linear_layers import lower_products, pack_linears


@dataclass(frozen=True)
class SizeRule:
    """How large the network sees a photograph; see `ovseg.data.preprocessing.Preprocessor`.

    Attributes:
        short_side: In pixels.
        long_side: At most so many pixels.
        aspect: ``keep``, ``square`` or ``patch``.
    """

    short_side: int
    long_side: int
    aspect: str = "keep"

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SizeRule:
        """Read the rule of a config; the rest of ``MODEL.PROTOCOL`` is for the dense methods.

        Raises:
            ConfigError: Another part of the protocol is set.
        """
        from ovseg.config import default_protocol

        own, usual = ("SHORT_SIDE", "LONG_SIDE", "ASPECT"), default_protocol()
        strange = [key for key, value in cfg.MODEL.PROTOCOL.items() if key not in own and value != usual[key]]
        if strange:
            raise ConfigError(
                f"MODEL.PROTOCOL.{strange[0]} is {cfg.MODEL.PROTOCOL[strange[0]]}, but a model that proposes masks has "
                f"of the protocol only {', '.join(own)}; leave it out"
            )
        return cls(*(cfg.MODEL.PROTOCOL[key] for key in own))


class Batch(NamedTuple):
    """Images of a batch on the model's device.

    Attributes:
        images: Normalised (B, 3, H, W), zeros right of and below the smaller ones.
        sizes: Height and width of each image in it.
        outputs: Height and width of each result.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    outputs: list[tuple[int, int]]


class MaskModel(WordedModel, Sectioned):
    """A frozen CLIP and trained parts that propose masks.

    Attributes:
        protocol: The size rule.
        precision: In which `network` multiplies where it may; set by `place`.
        head: Names of the trained parts in the state dict, by how they start.
    """

    protocol: SizeRule
    size_divisibility: int = 32
    precision: torch.dtype = torch.float32
    head: ClassVar[tuple[str, ...]]
    _head_hash: str = ""

    def place(self, device: torch.device, dtype: torch.dtype) -> MaskModel:
        """Move to a device for inference, and choose the dtype of products.

        What a lower precision is for is the trunk of CLIP, most of the work: its products run in it, under autocast;
        norms and the sums of residual blocks, texts, the trained head and all that follows stay float32. On the models
        of Scenes 99.6 % (FC-CLIP) and 99.9 % (SAN) of the pixels of 30 scenes keep their label, of 701, in bfloat16.
        """
        super().place(device, torch.float32)
        self.precision = dtype
        if dtype != torch.float32:
            lower_products(self.clip.tower.body, dtype)
        return self

    def pack(self) -> None:
        """Lay the weights of CLIP's trunk out for the CPU; see `ovseg.ops.linear_layers.PackedLinear`.

        Raises:
            EnvironmentProblem: They cannot be packed here.
        """
        pack_linears(self.clip.tower.body)

    def compile_network(self, backend: str = "inductor") -> None:
        """Compile the way of images to proposals (`network`), as one graph; words stay free to change.

        Args:
            backend: Of `torch.compile`.
        """
        self.network = torch.compile(self.network, fullgraph=True, backend=backend)  # type: ignore[method-assign]

    def network(self, images: Tensor) -> Any:
        """Run all that does not depend on words on a padded batch (B, 3, H, W): tensors in and out, no value is read.

        It may be compiled, and captured as a CUDA graph.
        """
        raise NotImplementedError

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for products in `precision`; float32 leaves the context around it as it is."""
        low = self.precision != torch.float32
        return torch.autocast(self.clip.device.type, self.precision) if low else nullcontext()

    def train(self, mode: bool = True) -> MaskModel:
        """Change the mode; behind training the weights are others, and so is their hash."""
        was_training = self.training
        super().train(mode)
        if was_training and not mode:
            self.refresh_hash()
        return self

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Load weights as ever; the hash follows."""
        result = super().load_state_dict(*arguments, **options)
        if not self.training:
            self.refresh_hash()
        return result

    def refresh_hash(self) -> None:
        """Read the hash of the trained parts from them."""
        self._head_hash = hash_tensors(
            (key, value) for key, value in self.state_dict().items() if key.startswith(self.head)
        )

    @property
    def weights_hash(self) -> str:
        """Hash of CLIP's weights and, after a plus, of the trained parts."""
        return f"{self.clip.weights_hash}+{self._head_hash}"

    def batch(self, inputs: Sequence[dict[str, Any]]) -> Batch:
        """Normalise images (3, h, w) RGB in 0..255 and pad them to the size of the largest, in whole multiples."""
        device = self.clip.device
        # Mean and deviation are brought to 0..255 and not the image to 0..1: the originals round so, to the last bit.
        mean, std = (
            torch.tensor([255 * x for x in values], device=device).view(3, 1, 1)
            for values in (self.clip.mean, self.clip.std)
        )
        raw = (to_device(entry["image"], device).float() for entry in inputs)
        images = [((image - mean) / std).to(self.clip.dtype) for image in raw]
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        unit = self.size_divisibility
        high, wide = (-(-max(sides) // unit) * unit for sides in zip(*sizes, strict=True))
        padded = [F.pad(image, (0, wide - image.shape[2], 0, high - image.shape[1])) for image in images]
        outputs = [(entry.get("height", h), entry.get("width", w)) for entry, (h, w) in zip(inputs, sizes, strict=True)]
        return Batch(torch.stack(padded), sizes, outputs)

    def resize(self, batch: Batch, index: int, mask_logits: Tensor, sigmoid_first: bool = False) -> MaskResize:
        """Plan the way of the masks (Q, h, w) of an image to its photograph; see `plan_resize`."""
        grid = (mask_logits.shape[-2], mask_logits.shape[-1])
        padded = (batch.images.shape[2], batch.images.shape[3])
        return plan_resize(grid, padded, batch.sizes[index], batch.outputs[index], sigmoid_first)

    def semantic(self, probabilities: Tensor, mask_logits: Tensor, resize: MaskResize) -> dict[str, Any]:
        """Label an image.

        Args:
            probabilities: (Q, C + 1) of the columns (see `columns`) and, last, of "no object".
            mask_logits: (Q, h, w).
            resize: Their way to the photograph.

        Returns:
            ``labels`` (H, W) int32, ``scores`` (H, W) float32 in 0..1, and with `full_scores` ``sem_seg`` (K, H, W).
        """
        _, classes = self.columns()
        labels, scores = semantic_map(probabilities, mask_logits, resize, self.background.threshold, classes)
        result = {"labels": labels, "scores": scores}
        if self.full_scores:
            result["sem_seg"] = class_maps(probabilities, mask_logits, resize)[: int((classes >= 0).sum())]
        return result


def read_targets(inputs: Sequence[dict[str, Any]], images: Tensor, ignore: int = 255) -> list[Target]:
    """Read what is to be found from Detectron2's training inputs.

    Args:
        inputs: Each with ``instances`` (Detectron2's, with ``gt_classes`` (N,) and ``gt_masks`` as bit masks (N, h, w))
            or with ``sem_seg`` (h, w), whose classes become a mask each.
        images: The padded batch (B, 3, H, W).
        ignore: Id in ``sem_seg`` of pixels without a label.

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
            target = semantic_target(entry["sem_seg"], size, ignore)
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


def hash_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return 16 hex digits that say which tensors these are."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors):
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
