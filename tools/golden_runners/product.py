"""The product's own path on a case: its words, its batch of images, and what models with masks answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ovseg.contract import Encoded, Words
from ovseg.labelling.mask_resize import plan_resize
from ovseg.labelling.masks import class_maps
from ovseg.meta_arch.mask_model import MaskModel
from ovseg.vocabulary import ClassEntry, TextEmbedder, Vocabulary, parse_background


def make_words(rows: Tensor, classes: Tensor | None = None, things: Sequence[int] | None = None) -> Words:
    """Wrap the texts (T, D) of a case; its classes are called ``class 0`` and so on.

    Args:
        rows: The embeddings.
        classes: Class (T,) of each, -1 for none; None: every text is its own.
        things: Ids of the classes that are things; None for all.
    """
    own = torch.arange(len(rows)) if classes is None else classes.long()
    count = int(own.max()) + 1
    entries = [ClassEntry((f"class {i}",), things is None or i in things) for i in range(count)]
    texts = tuple(f"class {i}" if i >= 0 else f"rest {place}" for place, i in enumerate(own.tolist()))
    return Words(
        embeddings=rows,
        query_to_class=own,
        texts=texts,
        vocabulary=Vocabulary(tuple(entries)),
        background=parse_background("none"),
        templates="none",
    )


def encode_together(model: MaskModel, images: Sequence[Tensor]) -> Encoded:
    """Encode images (3, h, w) as the originals batch them: padded to the largest, which changes what smaller ones show.

    The product never lets images of several sizes meet. Here they are given the mean colour to one size first, which
    is what zeros are behind the normalisation, and keep their own sizes for what follows.
    """
    high, wide = (max(sides) for sides in zip(*(image.shape[1:] for image in images), strict=True))
    fill = torch.tensor([255 * value for value in model.clip.mean]).view(3, 1, 1)
    padded = []
    for image in images:
        whole = fill.repeat(1, high, wide)
        whole[:, : image.shape[1], : image.shape[2]] = image
        padded.append(whole)
    encoded = model.encode(padded)
    return replace(encoded, sizes=tuple((i.shape[1], i.shape[2]) for i in images))


def padded_batch(model: MaskModel, images: Sequence[Tensor]) -> Tensor:
    """Return the normalised batch (B, 3, H, W) that `encode_together` gives to the network."""
    return model.training_batch([{"image": image} for image in images])


def answers(
    model: MaskModel, encoded: Encoded, sizes: Sequence[Sequence[int]], words: Words
) -> list[dict[str, Tensor]]:
    """Answer with all that a model gives, by the names of the cases.

    Args:
        model: Of the case.
        encoded: Its images.
        sizes: Height and width of each result.
        words: Of the case.
    """
    found = []
    for index, (height, width) in enumerate(sizes):
        answer = model.answer(encoded, index, (height, width), words, model.gives)
        result: dict[str, Any] = {"sem_seg": answer.class_scores}
        if answer.panoptic is not None:
            result |= panoptic_outputs(torch.from_numpy(answer.panoptic.ids), answer.panoptic.segments)
        if answer.instances is not None:
            result |= instance_outputs(answer.instances, (height, width))
        found.append(result)
    return found


def maps_of_classes(
    class_scores: Tensor, encoded: Encoded, index: int, size: Sequence[int], masks_first: bool
) -> Tensor:
    """Return the scores of classes (K, H, W) that the originals give in the order that no answer has.

    Args:
        class_scores: Log-probabilities (Q, K + 1) of an image's masks.
        encoded: The images.
        index: Of the image among them.
        size: Height and width of the result.
        masks_first: Whether masks are resized before the sigmoid, and not the maps that are made of them.
    """
    seen, own, (height, width) = encoded.images[index], encoded.sizes[index], size
    shape = (seen.masks.shape[1], seen.masks.shape[2])
    plan = plan_resize(shape, seen.padded, own, (height, width), sigmoid_first=not masks_first)
    return class_maps(class_scores.softmax(-1), seen.masks, plan)


def panoptic_outputs(ids: Tensor, segments: Sequence[Any]) -> dict[str, Tensor]:
    """Return a map of segments and their list by the names of the cases."""
    rows = [(segment.id, int(segment.is_thing), segment.class_id) for segment in segments]
    return {"panoptic_seg": ids, "panoptic_segments": torch.tensor(rows, dtype=torch.long).view(-1, 3)}


def instance_outputs(objects: Sequence[Any], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return objects by the names of the cases."""
    masks = [torch.from_numpy(own.mask()) for own in objects]
    return {
        "instances.scores": torch.tensor([own.score for own in objects]),
        "instances.classes": torch.tensor([own.class_id for own in objects], dtype=torch.long),
        "instances.masks": torch.stack(masks).to(torch.uint8) if masks else torch.zeros(0, *size, dtype=torch.uint8),
    }


class Recorded:
    """A text tower that knows one embedding for every row and template."""

    name, weights_hash = "golden case", ""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw

    def text(self, texts: list[str]) -> Tensor:
        """Look up (N, D) by prompts of the form "template row"."""
        places = [tuple(map(int, text.split())) for text in texts]
        return torch.stack([self.raw[row, template] for template, row in places])


def ensemble(raw: Tensor, lengths: bool = False) -> Tensor:
    """Return unit embeddings (N, D), or those of the tower's own lengths, of what it gave (N, templates, D)."""
    templates = [f"{index} {{}}" for index in range(raw.shape[1])]
    return TextEmbedder(Recorded(raw), templates, raw=lengths).embed([str(row) for row in range(len(raw))])
