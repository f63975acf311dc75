"""FALIP: boxes to biases, region embeddings and the attention of the class token."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.square_clip import square_clip
from ovseg.clip import ViTClip
from ovseg.recalibration.falip.foveal import run_biased
from ovseg.recalibration.falip.method import FALIP
from ovseg.regions.boxes import score_regions


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    if "image" not in inputs:
        return {f"output.bias_{kind}": biases(inputs, config, kind) for kind in config["patch"]}
    clip, image, boxes = square_clip(case), inputs["image"], inputs["boxes"]
    method = FALIP(start=config["mask_from_layer"], value=config["value"], sigma=float(config["sigma"]))
    width, height = config["image_size_wh"]
    embedding = method.encode_boxes(clip, image, boxes, (height, width))[0]
    bias = method.bias(boxes, (height, width), tuple(image.shape[2:]), clip.patch_size)
    rows = F.pad(bias.flatten(1), (1, 0))
    found = {}
    if "text" in inputs:
        found["output.logits"] = score_regions(embedding, inputs["text"], config["logit_scale"]).logits
    return found | {
        "output.embedding": embedding,
        "output.embedding_no_mask": clip.dense(image, method).cls[0],
        "intermediate.mask_row_cls": rows,
        "intermediate.attn_cls_per_layer": class_attention(clip, image, rows, config["mask_from_layer"]),
    }


def biases(inputs: dict[str, Tensor], config: Any, kind: str) -> Tensor:
    """Return the class token's row of bias of boxes in images of different sizes, each with its own peak."""
    side = config["resolution"]
    rows = []
    for box, size, value in zip(inputs[f"boxes_{kind}"], inputs[f"size_wh_{kind}"], inputs["value"], strict=True):
        method = FALIP(value=float(value), sigma=float(config["sigma"]))
        width, height = (int(x) for x in size)
        rows.append(method.bias(box[None], (height, width), (side, side), config["patch"][kind]).flatten(1))
    return F.pad(torch.cat(rows), (1, 0))


def class_attention(clip: ViTClip, image: Tensor, rows: Tensor, first: int) -> Tensor:
    """Return what the class token looks at (R, L, N) in every block, averaged over heads."""
    tokens = clip.tower.embed(image, "bicubic_offset")[0].expand(len(rows), -1, -1)
    found = []
    for index, block in enumerate(clip.blocks):
        own = rows[:, None, None] * (index >= first)
        query, key, _ = block.qkv(tokens)
        found.append((query[:, :, :1] @ key.mT * block.scale + own).softmax(-1).mean(1)[:, 0])
        tokens = run_biased(clip, tokens, block, own)
    return torch.stack(found, 1)
