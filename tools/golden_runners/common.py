"""What the runners of the training-free methods share: the CLIP of a case, its protocol, and its usual outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg.clip import Context, DenseFeatures, ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.data.windows import bilinear_matrix, plan_windows
from ovseg.meta_arch.image_engineering import engineer
from ovseg.postprocess import ScoreRule, class_probabilities, segment_map, upsample
from ovseg.recalibration import Recalibration
from ovseg.refinement import pamr
from ovseg.vocabulary.embedder import Queries


def build_clip(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTClip:
    """Build the CLIP of a case; the cases hold no text tower, so a tiny random one stands in."""
    grid, patch = config["pretrain_grid"], config["patch_size"]
    model_cfg = {
        "embed_dim": config["embed_dim"],
        "quick_gelu": config["activation"].startswith("quick"),
        "vision_cfg": {
            "image_size": [side * patch for side in grid],
            "patch_size": patch,
            "layers": config["layers"],
            "width": config["width"],
            "head_width": config["width"] // config["heads"],
            "mlp_ratio": config["mlp_ratio"],
            "norm_kwargs": {"eps": config["ln_eps"]},
        },
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    tower = build_model(model_cfg, "golden case").state_dict()
    text = {key: value for key, value in tower.items() if not key.startswith("visual.")}
    return ViTClip.from_config(model_cfg, {**text, **state}, "golden case")


def dense_outputs(dense: DenseFeatures, texts: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the outputs that all cases of the family have, for a whole image of ``size`` (H, W)."""
    cosines = dense.cosines(texts)
    logits = resize(cosines, size)
    return {
        "output.patch_features": dense.features.flatten(2).mT,
        "output.patch_logits": cosines,
        "output.logits": logits,
        "output.pred": logits.argmax(1).int(),
    }


def resize(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize patch scores (B, T, h, w) to an image (B, T, H, W) by our matrices."""
    rows, columns = (bilinear_matrix(*pair).float() for pair in zip(scores.shape[2:], size, strict=True))
    return torch.stack([upsample(one, rows, columns) for one in scores])


def empty_context(clip: ViTClip, grid: tuple[int, int], images: Tensor) -> Context:
    """Return the context of a pass of which nothing has been recorded."""
    return Context(grid, images, clip, clip.mean, clip.std)


def queries(texts: Tensor, classes: Tensor | None = None) -> Queries:
    """Wrap text embeddings (T, D); without classes every text is its own."""
    return Queries(texts, torch.arange(len(texts)) if classes is None else classes.long())


class LastBlock(NamedTuple):
    """Tokens that enter and leave the handed-over blocks, and the attention weights of the last one."""

    entering: Tensor
    leaving: Tensor
    attention: Tensor


def last_block(clip: ViTClip, method: Recalibration, images: Tensor) -> LastBlock:
    """Run a method and keep what the intermediates of the cases show."""
    tokens, grid = clip.tower.embed(images, method.pos_resize)
    context = empty_context(clip, grid, images)
    for block in clip.blocks[: -method.blocks]:
        tokens = block(tokens)
    query, key, _ = clip.blocks[-1].qkv(tokens)
    weights = method.weights(query, key, context)
    return LastBlock(tokens, method.run(tokens, clip.blocks[-method.blocks :], context), weights)


def protocol(
    clip: ViTClip, method: Recalibration, inputs: Mapping[str, Tensor], config: Mapping[str, Any], padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Run windows, averaging, resizing, refinement and labelling as the ``postprocess`` of a case says.

    Returns:
        Final logits (1, T, H, W) without the scale, class probabilities (K, H, W), and labels (1, H, W) int32.
    """
    maps = window_scores(clip, method, inputs, config, padding)
    guide = F.interpolate(inputs["image"], size=tuple(config["ori"]), mode="bilinear", align_corners=False)
    logits = upsample(*maps)[None]
    if config.get("pamr_steps"):
        logits = pamr(guide, logits, config["pamr_steps"], tuple(config.get("pamr_dilations", (8, 16))))
    classes = queries(inputs["text_embeddings"], inputs.get("query_idx")).query_to_class
    probabilities, labels = label(*maps, classes, config, guide[0])
    return logits, probabilities, labels[None]


def window_scores(
    clip: ViTClip, method: Recalibration, inputs: Mapping[str, Tensor], config: Mapping[str, Any], padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the patch scores (T, h, w) of all windows, and the matrices that take them to the output's size."""
    image, size, crop = inputs["image"], tuple(config["ori"]), config["crop"]
    stride = config["stride"] if crop else 0
    plan = plan_windows(tuple(image.shape[2:]), clip.patch_size, crop, stride, padding, config.get("pad_multiple", 0))
    texts = queries(inputs["text_embeddings"])

    def score(windows: Tensor, regions: Tensor | None = None) -> Tensor:
        return method.patch_scores(method.encode(clip, windows, regions), texts)

    windows = plan.cut(image)
    found = score(windows)
    if share := config.get("image_engineering", 0.0):
        found = engineer(found, windows, None, share, score)
    scores = plan.join(found)[0]
    cells = (scores.shape[1], scores.shape[2])
    if crop or padding != "none":
        return scores, *plan.matrices(size, cells)
    # The originals resize the scores of a whole image to the output at once, not by way of the network input.
    rows, columns = (bilinear_matrix(*pair).float() for pair in zip(cells, size, strict=True))
    return scores, rows, columns


def label(
    scores: Tensor,
    rows: Tensor,
    columns: Tensor,
    classes: Tensor,
    config: Mapping[str, Any],
    guide: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return class probabilities (K, H, W) and labels (H, W) int32 by the thresholds and refinements of a case."""
    rule = ScoreRule(
        logit_scale=config["logit_scale"],
        prob_threshold=config["prob_thd"],
        area_threshold=config.get("area_thd") or 0.0,
        area_exempt=0,
        pamr_steps=config.get("pamr_steps", 0),
        pamr_dilations=tuple(config.get("pamr_dilations", (8, 16))),
        threshold_label=0,
        closing=config.get("closing", 0),
    )
    arguments = (scores, rows, columns, classes, rule, guide)
    return class_probabilities(*arguments), segment_map(*arguments)[0]
