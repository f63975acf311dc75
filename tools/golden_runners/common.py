"""What the runners of the training-free methods share: the CLIP of a case, its protocol, and its usual outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.product import make_words
from ovseg.clip import Context, DenseFeatures, ViTClip
from ovseg.clip.normalise import denormalise
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule, class_probabilities, segment_map, upsample
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.recalibration import Recalibration
from ovseg.refinement import pamr


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


def build_method(clip: ViTClip, method: Recalibration, config: Mapping[str, Any], padding: str) -> TrainingFree:
    """Build the model whose protocol is that of the ``postprocess`` of a case."""
    return TrainingFree(
        clip=clip,
        recalibration=method,
        size_rule=SizeRule(1, 1),  # the images of cases have the network's size
        protocol=Protocol(
            window=config["crop"],
            stride=config["stride"] if config["crop"] else 0,
            padding=padding,
            pad_multiple=config.get("pad_multiple", 0),
            image_engineering=config.get("image_engineering", 0.0),
        ),
        rule=score_rule(config),
        templates="none",
        background="none",
    ).eval()


def protocol(
    clip: ViTClip, method: Recalibration, inputs: Mapping[str, Tensor], config: Mapping[str, Any], padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Run windows, averaging, resizing, refinement and labelling as the ``postprocess`` of a case says.

    Returns:
        Final logits (1, T, H, W) without the scale, class probabilities (K, H, W), and labels (1, H, W) int32.
    """
    model, size = build_method(clip, method, config, padding), (config["ori"][0], config["ori"][1])
    words = make_words(inputs["text_embeddings"], inputs.get("query_idx"))
    encoded = model.encode(list(raw_pixels(clip, inputs["image"])))
    answer = model.answer(encoded, 0, size, words, LABELS | {CLASS_SCORES})
    scores, plan = model.patch_scores(encoded.images[0], words), encoded.images[0].plan
    logits = upsample(scores, *plan.matrices(size, (scores.shape[1], scores.shape[2])))[None]
    if config.get("pamr_steps"):
        guide = F.interpolate(inputs["image"], size=size, mode="bilinear", align_corners=False)
        logits = pamr(guide, logits, config["pamr_steps"], tuple(config.get("pamr_dilations", (8, 16))))
    return logits, answer.class_scores, answer.labels[None]


def raw_pixels(clip: ViTClip, images: Tensor) -> Tensor:
    """Return RGB in 0..255 of normalised images (B, 3, h, w), as models take them."""
    return denormalise(images, clip.mean, clip.std) * 255


def label(
    scores: Tensor,
    rows: Tensor,
    columns: Tensor,
    classes: Tensor,
    config: Mapping[str, Any],
    guide: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return class probabilities (K, H, W) and labels (H, W) int32 by the thresholds and refinements of a case."""
    arguments = (scores, rows, columns, classes, score_rule(config), guide)
    return class_probabilities(*arguments), segment_map(*arguments)[0]


def score_rule(config: Mapping[str, Any]) -> ScoreRule:
    """Return how a case makes labels of scores."""
    return ScoreRule(
        logit_scale=config["logit_scale"],
        prob_threshold=config["prob_thd"],
        area_threshold=config.get("area_thd") or 0.0,
        area_exempt=0,
        pamr_steps=config.get("pamr_steps", 0),
        pamr_dilations=tuple(config.get("pamr_dilations", (8, 16))),
        threshold_label=0,
        closing=config.get("closing", 0),
    )
