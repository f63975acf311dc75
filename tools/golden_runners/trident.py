"""Trident: SAM's correlation; windows, splicing, mixing and redrawing from the photograph to labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from golden_runners.common import build_clip, raw_pixels, score_rule
from golden_runners.product import make_words
from ovseg.clip import ViTClip
from ovseg.contract import CLASS_SCORES, LABELS, Answer, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.guides.base import IMAGENET_MEAN, IMAGENET_STD
from ovseg.guides.sam_image import SamImage, cells, last_attention, look
from ovseg.guides.timm import TimmGuide
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.labelling.shares import ClassShares
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration.trident import Trident, splicing
from ovseg.recalibration.trident.correlation import correlation, row_bounds
from ovseg.recalibration.trident.region_prompts import Prompting, asked, claims, half_size, redraw
from ovseg.recalibration.trident.sam_mixing import whole_patches

EVERY = 6  # of the rows of SAM's correlation is in the cases


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    if config["part"] == "sam_similarity":
        return similarity(inputs, config)
    state = case.group("state_dict")
    sam, guide = build_sam(config["sam"], part(state, "sam.")), build_guide(config["dino"], part(state, "vfm."))
    clip = build_clip(named(config["clip"]), part(state, "clip."))
    options = {
        "guide": guide,
        "sam": sam,
        "windows": (config["slide_crop"], config["slide_stride"]),
        "beta": config["beta"],
        "gamma": config["gamma"],
        "pair_factor": float(config["cos_fac"]),
        "keep_negative": config["refine_neg_cos"],
        "halves": "cityscapes" in config["dataset_type"].lower(),
    }
    photo, view = inputs["image"], GivenView(raw_pixels(clip, inputs["inputs"])[0])
    words = make_words(inputs["text_embeddings"], torch.tensor(config["query_idx"]))
    size = tuple(config["ori_shape"])
    coarse = build(clip, Trident(**options), config, view)
    (seen,) = coarse.encode([photo]).images
    found = between(coarse, sam, photo, seen, words, size)
    answer = answered(coarse, photo, words, size)
    if config.get("refine"):
        own = config["refine"]
        found |= {"intermediate.coarse_pred": answer.labels[None], "intermediate.coarse_prob": answer.class_scores}
        method = Trident(
            **options,
            refine=True,
            coarse_threshold=own["coarse_thresh"],
            least_area=own["minimal_area"],
            mask_factor=own["sam_mask_coff"],
            least_quality=own["sam_iou_thresh"],
            mask_prompt="original",
        )
        before, answer = answer, answered(build(clip, method, config, view), photo, words, size)
        shares = ClassShares(*of_classes(coarse, seen, words, size))
        sight = look(sam, whole_patches(photo.permute(1, 2, 0).numpy(), clip.patch_size))[0]
        answer = replace(answer, class_scores=original_scores(sam, sight, before, answer, shares, method.prompting))
    return found | {"output.class_scores": answer.class_scores, "output.pred": answer.labels[None]}


def of_classes(
    model: TrainingFree, seen: Any, words: Words, size: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor, ScoreRule]:
    """Return of what the probabilities of classes are made."""
    scores = model.patch_scores(seen, words)
    matrices = seen.plan.matrices((size[0], size[1]), (scores.shape[1], scores.shape[2]))
    return scores, *matrices, words.query_to_class, model.rule


def original_scores(
    sam: Any, image: SamImage, before: Answer, after: Answer, shares: ClassShares, rule: Prompting
) -> Tensor:
    """Return the original's scores of classes (K, H, W), which do not follow the labels where nothing was redrawn.

    They are 0 there; in regions whose mask was not kept none is below what it was before. Labels are the same.
    """
    failed = torch.zeros(half_size(before.labels))
    drawn = torch.zeros(before.labels.shape, dtype=torch.bool)
    for _, own, share in claims(before.labels, shares, rule):
        drawn |= redraw(sam, image, own, share, rule) > 0
        parts = torch.from_numpy(cv2.connectedComponents(own.byte().numpy(), connectivity=8)[1])
        for points, _, quality in asked(sam, image, own, share, rule):
            x, y = points[quality <= rule.least_quality].long().unbind(1)
            failed[torch.isin(parts, parts[y, x])] = 1
    if not drawn.any():
        return before.class_scores
    there = F.interpolate(failed[None, None], tuple(drawn.shape), mode="nearest")[0, 0] > 0
    scores = torch.where(drawn, after.class_scores, 0)
    return torch.where(there, torch.maximum(scores, before.class_scores), scores)


def similarity(inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of given values and attention."""
    values, factor = inputs["sam_v"][0].flatten(1, 2), config["cos_fac"]
    unit = torch.nn.functional.normalize(values, dim=-1)
    return {
        "output.weights": correlation(inputs["sam_attn"][0], values, factor, config["refine_neg_cos"])[None],
        "intermediate.threshold": row_bounds(unit, factor)[None, None, :, None],
    }


class GivenView(SizeRule):
    """The pipeline image of a case, whatever the photograph."""

    def __init__(self, image: Tensor) -> None:
        """Keep an image (3, h, w) in 0..255."""
        super().__init__(1, 1)
        object.__setattr__(self, "image", image)

    def __call__(self, pixels: Any) -> Tensor:
        """Return it."""
        image: Tensor = vars(self)["image"]
        return image


def build(clip: ViTClip, method: Trident, config: Mapping[str, Any], view: SizeRule) -> TrainingFree:
    """Build the model of a case."""
    return TrainingFree(
        clip=clip,
        recalibration=method,
        size_rule=SizeRule(1, 1, "photo"),
        protocol=Protocol(0, 0, "none"),
        rule=score_rule(config),
        templates="none",
        background="none",
        view=view,
    ).eval()


def answered(model: TrainingFree, photo: Tensor, words: Words, size: tuple[int, ...]) -> Answer:
    """Answer with the scores of all classes."""
    return model.answer(model.encode([photo]), 0, (size[0], size[1]), words, LABELS | {CLASS_SCORES})


def between(
    model: TrainingFree, sam: Any, photo: Tensor, seen: Any, words: Words, size: tuple[int, ...]
) -> dict[str, Tensor]:
    """Return what the original has on its way."""
    method, clip = model.recalibration, model.clip
    if not isinstance(method, Trident):
        raise TypeError(f"expected Trident, got {method.name}")
    patch, image = clip.patch_size, splicing.fit(seen.image[None], clip.patch_size, method.windows[0])
    places = splicing.plan(tuple(image.shape[2:]), patch, *method.windows)
    windows = places.cut(image)
    tokens, context = clip.entering(windows, method)
    ends = [(top, left) for top in places.rows.starts for left in places.columns.starts]
    side = method.windows[0]
    corners = [[top, left, top + side, left + side] for top, left in ends]
    scores = model.patch_scores(seen, words)
    matrices = seen.plan.matrices((size[0], size[1]), (scores.shape[1], scores.shape[2]))
    found = {
        "intermediate.window_last": windows[-1:, :, ::4, ::4],
        "intermediate.window_coords": torch.tensor(corners) // patch,
        "intermediate.vfm_feats": method.guide(context)[-1:],
        "intermediate.last_block_ln1": clip.split(context.blocks[-1].norm(tokens))[1].transpose(0, 1),
        "intermediate.proxy_out": splicing.guided(clip, windows, method)[0].transpose(0, 1),
        "intermediate.coarse_logits": (matrices[0] @ scores @ matrices[1].mT)[None],
    }
    pixels = whole_patches(photo.permute(1, 2, 0).numpy(), patch)
    middle = pixels.shape[1] // 2
    parts = {"_0": pixels[:, :middle], "_1": pixels[:, middle:]} if method.halves else {"": pixels}
    for name, own in parts.items():
        shown, entered = look(sam, own.copy())
        weights = correlation(
            *last_attention(sam, entered, cells(sam, shown)), method.pair_factor, method.keep_negative
        )
        found[f"intermediate.sam_weights{name}"] = weights[None, ::EVERY]
    return found


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors below a prefix."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def named(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a CLIP in the words of the other methods' cases."""
    return {**own, "patch_size": own["patch"], "activation": "quick_gelu" if own["quick_gelu"] else "gelu"}


def build_guide(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> TimmGuide:
    """Build the DINO of a case."""
    backbone: Any = VisionTransformer(
        img_size=config["img_size"],
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        norm_layer=partial(nn.LayerNorm, eps=config["ln_eps"]),
        num_classes=0,
        dynamic_img_size=True,
    )
    backbone.load_state_dict(state)
    backbone.pretrained_cfg = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return TimmGuide(backbone).eval()


def build_sam(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Sam:
    """Build the SAM of a case, whose decoder may have no weights there."""
    side, grid, channels = config["img_size"], config["grid"], config["out_chans"]
    encoder = ImageEncoderViT(
        img_size=side,
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        out_chans=channels,
        qkv_bias=True,
        use_rel_pos=True,
        window_size=config["window_size"],
        global_attn_indexes=tuple(config["global_attn_indexes"]),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    prompts = PromptEncoder(channels, (grid, grid), (side, side), mask_in_chans=config["mask_in_chans"])
    two = TwoWayTransformer(2, channels, num_heads=config["decoder_heads"], mlp_dim=config["decoder_mlp"])
    head = state.get("mask_decoder.iou_prediction_head.layers.0.weight")
    decoder = MaskDecoder(
        transformer_dim=channels, transformer=two, iou_head_hidden_dim=256 if head is None else len(head)
    )
    sam = Sam(encoder, prompts, decoder)
    missing, unexpected = sam.load_state_dict(state, strict=False)
    if unexpected or any(key.startswith("image_encoder.") for key in missing):
        raise ValueError(f"the case's SAM does not fit; unexpected {unexpected}, missing {missing}")
    return sam.eval().requires_grad_(False)
