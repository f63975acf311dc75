"""Talk2DINO: what DINO's heads see, steps of training, and masks from the window to labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from golden_runners.product import ensemble, make_words
from ovseg.clip import ViTClip
from ovseg.clip.open_clip_internals import build_model
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.data.preprocessing import SizeRule
from ovseg.guides.base import IMAGENET_MEAN, IMAGENET_STD
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.talk2dino import Talk2DINO
from ovseg.meta_arch.talk2dino.alignment import best_heads, scores, train_step
from ovseg.meta_arch.talk2dino.attention import SCALE, head_tokens, look
from ovseg.meta_arch.talk2dino.masks import Looks, Masks
from ovseg.meta_arch.talk2dino.projection import Projection, read_projection


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs, config = case.group("input"), case.config
    state = case.group("state_dict")
    own = {key.removeprefix("proj."): value for key, value in state.items() if key.startswith("proj.")}
    if config["part"] == "image_heads":
        return heads(build_backbone(config["dinov2"], state), inputs["pixel_values"], config)
    projection = read_projection(own or state, case.name, config["projection"]["act"] or "none")
    if config["part"] == "alignment":
        found = scores(projection(inputs["text_features"]), inputs["head_tokens"], config["alignment_strategy"])
        return {"output.similarity": found}
    if config["part"] == "training":
        return trained(projection, inputs, config)
    return full(projection, build_backbone(config["dinov2"], state), inputs, config)


def heads(backbone: Any, images: Tensor, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the heads of the last block look at and see."""
    patches, logits = look(backbone, images)
    logits = logits * (config["attn_scale"] / SCALE)
    return {
        "output.head_tokens": head_tokens(patches, logits),
        "output.attn_maps": logits.softmax(-1),
        "intermediate.patch_tokens": patches,
        "intermediate.raw_attn": logits,
        "intermediate.avg_attn": logits.mean(1).softmax(-1),
    }


def trained(projection: Projection, inputs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Take the steps of a case."""
    texts, seen = inputs["text_features"], inputs["head_tokens"]
    embed, visual = F.normalize(projection(texts), dim=-1), F.normalize(seen, dim=-1)
    found = {
        "intermediate.text_embed": embed,
        "intermediate.visual_embed": visual,
        "intermediate.head_index": best_heads(embed, visual),
        "intermediate.scores": scores(projection(texts), seen, config["alignment_strategy"]),
    }
    optimizer, losses = torch.optim.Adam(projection.parameters(), lr=config["lr"]), []
    for step in range(config["steps"]):
        with torch.enable_grad():
            losses.append(train_step(projection, optimizer, texts, seen, config["alignment_strategy"]))
        if step == 0:
            for name, parameter in projection.named_parameters():
                found[f"output.grad.{name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                found[f"output.grad.{name}"] = found[f"output.grad.{name}"].clone()
    found |= {f"output.after.{name}": parameter.detach() for name, parameter in projection.named_parameters()}
    return found | {"output.losses": torch.stack(losses)}


def full(
    projection: Projection, backbone: Any, inputs: Mapping[str, Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the answer of the product for one window, and what is on its way."""
    image = inputs["image_bgr"].flip(1)
    share = config["lambda_bg"] if config["with_bg_clean"] else 0.0
    pamr, threshold = config.get("pamr") or {}, config.get("bg_thresh") or 0.0
    raw = inputs["text_features"]
    model = build(Masks(backbone, projection, config["resize_dim"], share), raw.shape[2], pamr, threshold)
    rows = ensemble(raw, lengths=True)
    words, size = make_words(rows), (image.shape[2], image.shape[3])
    encoded = model.encode([image[0]])
    answer = model.answer(encoded, 0, size, words, LABELS | {CLASS_SCORES})
    masks, labels = answer.class_scores, answer.labels
    if config["with_background"]:
        masks, labels = torch.cat([torch.full_like(masks[:1], threshold), masks]), labels + 1
    found = {"output.masks": masks[None], "output.pred": labels[None].int()}
    dense = encoded.images[0].parts[0][0].at(model.clip)
    unit = F.normalize(projection(rows), dim=-1)
    found |= {
        "intermediate.text_embeddings": unit,
        "intermediate.pixel_values": model.recalibration.squares(image / 255),
        "intermediate.patch_tokens": dense.features.flatten(2).mT,
        "intermediate.cosine": dense.cosines(unit),
        "intermediate.soft_mask": dense.cosines(unit).sigmoid(),
        "intermediate.raw_attn": dense.context.kept(Looks).logits,
    }
    return found | ({"intermediate.cleaned_mask": model.recalibration.patch_scores(dense, words)} if share else {})


def build(masks: Masks, width: int, pamr: Mapping[str, Any], threshold: float) -> Talk2DINO:
    """Build the model of a case, whose texts have so many channels; no CLIP reads them."""
    config = {
        "embed_dim": width,
        "vision_cfg": {"image_size": 16, "patch_size": 8, "layers": 1, "width": 8, "head_width": 8},
        "text_cfg": {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1},
    }
    return Talk2DINO(
        clip=ViTClip.from_config(config, build_model(config, "golden case").state_dict(), "golden case"),
        masks=masks,
        size_rule=SizeRule(1, 1),
        protocol=Protocol(0, 0, "none", corners=True, pamr_at="window"),
        rule=ScoreRule(
            1.0,
            prob_threshold=threshold,
            softmax=False,
            pamr_steps=pamr.get("iterations", 0),
            pamr_dilations=tuple(pamr.get("dilations", (8, 16))),
        ),
        templates="none",
        background="none",
    ).eval()


def build_backbone(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Any:
    """Build the DINOv2 of a case."""
    backbone: Any = VisionTransformer(
        img_size=config["img"],
        patch_size=config["patch"],
        embed_dim=config["dim"],
        depth=config["depth"],
        num_heads=config["heads"],
        mlp_ratio=config["mlp_ratio"],
        init_values=1e-5 if config["layer_scale"] else None,
        reg_tokens=config["reg"],
        no_embed_class=bool(config["reg"]),
        norm_layer=partial(nn.LayerNorm, eps=config["ln_eps"]),
        num_classes=0,
        dynamic_img_size=True,
    )
    own = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    backbone.load_state_dict(checkpoint_filter_fn(own, backbone))
    backbone.pretrained_cfg = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return backbone.eval()
