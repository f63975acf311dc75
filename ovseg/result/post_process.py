"""Results in the form of transformers' processors, under the names that those have.

    results = segmenter(["a.jpg", "b.jpg"], "cat, sofa")
    maps = post_process_semantic_segmentation(results, target_sizes=[(480, 640), (600, 400)])

Where a model of transformers gives queries that its processor turns into maps, ours gives results at the size of the
photograph, with thresholds applied; so these functions choose, number and resize, and nothing else. Keys, ids and types
of ids are those of ``Mask2FormerImageProcessor`` (transformers 5). Label ids are positions in the user's list; a pixel
of no class is -1, which processors do not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg.errors import InputError
from ovseg.result.parts import Result, nearest

Size = tuple[int, int]
_DIGITS = 6  # of scores


def post_process_semantic_segmentation(
    outputs: Result | Sequence[Result], target_sizes: Sequence[Size] | None = None
) -> list[Tensor]:
    """Return label maps.

    Args:
        outputs: What a `Segmenter` gives for one image or several.
        target_sizes: Height and width for each; None is the photograph's. Maps of another size show the nearest pixel.

    Returns:
        ``(H, W)`` int64 each: position of the class in the user's list, -1 no class.

    Raises:
        InputError: There is not one size for each, or it is none.
    """
    return [torch.from_numpy(nearest(one.labels, size).astype(np.int64)) for one, size in _pairs(outputs, target_sizes)]


def post_process_panoptic_segmentation(
    outputs: Result | Sequence[Result], threshold: float = 0.5, target_sizes: Sequence[Size] | None = None
) -> list[dict[str, Any]]:
    """Return panoptic segments.

    Args:
        outputs: As for `post_process_semantic_segmentation`, of a model that gives panoptic segments.
        threshold: Segments that do not score higher are left out.
        target_sizes: Likewise.

    Returns:
        For each image ``segmentation``, ``(H, W)`` int32 ids of segments (0 = none; -1 everywhere where there is no
        segment at all), and ``segments_info``, a list of dictionaries: ``id`` from 1, ``label_id``, ``was_fused`` (all
        of a class that is no thing are one segment) and ``score``. As there, a segment of which no pixel is left at a
        target size is not listed.

    Raises:
        InputError: A result has no panoptic segments, or sizes do not fit.
    """
    found = []
    for one, size in _pairs(outputs, target_sizes):
        if one.panoptic is None:
            raise _missing(one, "panoptic")
        ids = nearest(one.panoptic.ids, size)
        shown = set(np.unique(ids).tolist())
        kept = [own for own in one.panoptic.segments if own.score > threshold and own.id in shown]
        new = np.zeros(max((own.id for own in one.panoptic.segments), default=0) + 1, dtype=np.int32)
        new[[own.id for own in kept]] = np.arange(1, len(kept) + 1)
        infos = [_info(new[own.id], own.class_id, not own.is_thing, own.score) for own in kept]
        found.append(
            {"segmentation": torch.from_numpy(new[ids] if kept else np.full_like(ids, -1)), "segments_info": infos}
        )
    return found


def post_process_instance_segmentation(
    outputs: Result | Sequence[Result],
    threshold: float = 0.5,
    target_sizes: Sequence[Size] | None = None,
    return_binary_maps: bool = False,
) -> list[dict[str, Any]]:
    """Return objects.

    Args:
        outputs: As for `post_process_semantic_segmentation`, of a model that gives objects.
        threshold: Objects that score lower are left out.
        target_sizes: Likewise.
        return_binary_maps: Give a map for each object, in which objects that overlap are whole.

    Returns:
        For each image ``segmentation``, ``(H, W)`` int32 ids of objects (-1 = none; the surest has a pixel that several
        claim), or ``(N, H, W)`` float32 of 0 and 1, and ``segments_info``, a list of dictionaries: ``id`` from 0,
        ``label_id``, ``was_fused`` (False) and ``score``.

    Raises:
        InputError: A result has no objects, or sizes do not fit.
    """
    found = []
    for one, size in _pairs(outputs, target_sizes):
        if one.instances is None:
            raise _missing(one, "instances")
        masks = [(own, nearest(own.mask(), size)) for own in one.instances if own.score >= threshold]
        kept = [(own, mask) for own, mask in masks if mask.any()]
        ids = np.full(size, -1, dtype=np.int32)
        for number, (_, mask) in reversed([*enumerate(kept)]):
            ids[mask] = number
        infos = [_info(number, own.class_id, False, own.score) for number, (own, _) in enumerate(kept)]
        shown = np.stack([mask for _, mask in kept]).astype(np.float32) if return_binary_maps and kept else ids
        found.append({"segmentation": torch.from_numpy(shown), "segments_info": infos})
    return found


def _info(number: int, class_id: int, fused: bool, score: float) -> dict[str, Any]:
    return {"id": int(number), "label_id": class_id, "was_fused": fused, "score": round(float(score), _DIGITS)}


def _pairs(outputs: Result | Sequence[Result], sizes: Sequence[Size] | None) -> Iterator[tuple[Result, Size]]:
    """Return each result with the size that is asked for.

    Raises:
        InputError: There is not one for each, or it is none.
    """
    results = [*outputs] if isinstance(outputs, Sequence) else [outputs]
    if sizes is not None and len(sizes) != len(results):
        raise InputError(f"there are {len(sizes)} target sizes for {len(results)} results; expected one for each")
    wanted = [one.labels.shape for one in results] if sizes is None else [tuple(map(int, size)) for size in sizes]
    for size in wanted:
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"a target size is {size}; expected height and width in pixels, such as (480, 640)")
    return zip(results, [(size[0], size[1]) for size in wanted], strict=True)


def _missing(result: Result, what: str) -> InputError:
    model = result.meta.get("model", "the model")
    return InputError(
        f"{model} gave no {what} here; take a model that does ('panoptic'), and leave `want` out or name it"
    )
