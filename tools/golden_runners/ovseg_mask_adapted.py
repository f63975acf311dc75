"""OVSeg: mask prompts, crops, heads that propose masks, both classifiers, and whole images by the product's path."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip
from golden_runners.product import make_words
from ovseg.checkpoint.strict import translate
from ovseg.clip import ViTClip
from ovseg.clip.mask_prompts import MaskPrompts, kept_patches
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.data.preprocessing import SizeRule
from ovseg.losses.criterion import SetCriterion
from ovseg.meta_arch.ov_seg.fusion import Fusion
from ovseg.meta_arch.ov_seg.model import OVSeg, Proposed
from ovseg.meta_arch.ov_seg.weights import official_name
from ovseg.proposals.crops import CropRule, crop_masks
from ovseg.proposals.maskformer import MaskFormerHead

VISUAL = "clip_adapter.clip_model."
PROMPTS = f"{VISUAL}visual.mask_embedding"


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    runners = {"input_resolution": prompts, "mask_fill": crops, "adapter": named, "pixel_decoder": head}
    return next(runner for key, runner in runners.items() if key in case.config)(case)


def build_vit(config: dict[str, Any], state: dict[str, Tensor]) -> tuple[ViTClip, MaskPrompts]:
    """Build the CLIP of a case and its mask prompts."""
    side, patch = config["input_resolution"], config["patch_size"]
    clip = build_clip(
        {
            "pretrain_grid": [side // patch, side // patch],
            "patch_size": patch,
            "embed_dim": config["output_dim"],
            "activation": "quick_gelu",
            "layers": config["layers"],
            "width": config["width"],
            "heads": config["heads"],
            "mlp_ratio": 4.0,
            "ln_eps": 1e-5,
        },
        {key.removeprefix(VISUAL): value for key, value in state.items() if key.startswith(VISUAL) and key != PROMPTS},
    )
    found = MaskPrompts((side // patch) ** 2, config["width"], config["mask_prompt_depth"])
    if PROMPTS in state and found.depth:
        found.load_state_dict({"embedding": state[PROMPTS]})
    return clip, found


def prompts(case: Any) -> dict[str, Tensor]:
    """Embed crops with prompts, and without."""
    inputs = case.group("input")
    clip, own = build_vit(case.config, case.group("state_dict"))
    found: dict[str, Tensor] = {}
    if "masks" in inputs:
        handles = [
            block.module.ln_1.register_forward_pre_hook(
                lambda _m, given, key=f"intermediate.block{i}_in": found.update({key: given[0]})
            )
            for i, block in enumerate(clip.blocks)
        ]
        masked = own(clip, inputs["crops"], inputs["masks"])
        for handle in handles:
            handle.remove()
        found |= {"output.embedding_masked": masked, "output.embedding_masked_unit": F.normalize(masked, dim=-1)}
        found["intermediate.patch_keep"] = kept_patches(inputs["masks"], case.config["patch_size"]).float()
    return found | {"output.embedding_nomask": own(clip, inputs["crops"])}


def crop_rule(config: dict[str, Any]) -> CropRule:
    """Return how a case cuts masks out."""
    return CropRule(
        threshold=config["mask_thr"],
        expand=config["mask_expand_ratio"],
        fill=config["mask_fill"],
        matting=config["mask_matting"],
    )


def crops(case: Any) -> dict[str, Tensor]:
    """Cut masks out."""
    inputs, config = case.group("input"), case.config
    found = crop_masks(inputs["image"], inputs["mask_prob"], config["clip_input_size"], crop_rule(config))
    return {
        "output.valid": found.valid,
        "output.regions": found.regions,
        "output.region_masks": found.masks,
        "intermediate.tight_boxes": found.tight.float(),
        "intermediate.crop_boxes": found.boxes,
    }


def head(case: Any) -> dict[str, Tensor]:
    """Propose masks on the levels of a backbone."""
    config, inputs = case.config, case.group("input")
    module = MaskFormerHead(
        config["in_channels"],
        config["embedding_dim"],
        dim=config["convs_dim"],
        mask_dim=config["mask_dim"],
        query_dim=config["hidden_dim"],
        queries=config["num_queries"],
        heads=config["nheads"],
        ffn=config["dim_feedforward"],
        encoder_layers=config["pixel_decoder_enc_layers"],
        decoder_layers=config["dec_layers"],
        embed_hidden=config["embed_hidden_dim"],
        embed_layers=config["embed_layers"],
    ).eval()
    own = {f"proposer.{key}": value for key, value in module.state_dict().items()}
    state = translate(own, case.group("state_dict"), official_name, "the golden case", "OVSeg")
    module.load_state_dict({key.removeprefix("proposer."): value for key, value in state.items()})
    stages = module(inputs, every=True)
    mask_features, seen = module.pixel_decoder(inputs)
    found = {"output.class_embed": stages[-1].embeddings, "output.mask_logits": stages[-1].masks}
    found |= {"intermediate.mask_features": mask_features, "intermediate.transformer_encoder_features": seen}
    for index, stage in enumerate(stages[:-1]):
        found[f"intermediate.aux{index}_class_embed"] = stage.embeddings
        found[f"intermediate.aux{index}_mask_logits"] = stage.masks
    return {key: value for key, value in found.items() if key in case.tensors}


class Given(OVSeg):
    """OVSeg whose proposals are those of a case, which gives their logits and no embeddings."""

    given: Tensor

    def logits(self, embeddings: Tensor, words: Any) -> Tensor:
        """Return what the case gives for the proposals, and what the product makes of what CLIP sees."""
        return self.given if embeddings is self.given else super().logits(embeddings, words)


def named(case: Any) -> dict[str, Tensor]:
    """Cut masks out, name them by both classifiers, and make maps of classes."""
    config, inputs, state = case.config, case.group("input"), case.group("state_dict")
    adapter = config["adapter"]
    clip, own = build_vit(config["vit"], state)
    model = Given(
        clip=clip,
        backbone=torch.nn.Identity(),
        proposer=torch.nn.Identity(),
        crop_rule=crop_rule(adapter),
        fusion=Fusion(
            clip_weight=adapter["clip_ensemble_weight"],
            clip_ensemble=adapter["clip_ensemble"],
            best_only=config.get("demo_rule", False),
        ),
        criterion=SetCriterion(),
        size_rule=SizeRule(1, 1),
        templates="none",
        background="none",
        prompt_depth=own.depth,
        use_prompts=adapter["mask_prompt_fwd"],
    ).eval()
    model.prompts.load_state_dict(own.state_dict())
    if (row := official_name("void_row")) in state:
        model.void_row.data.copy_(state[row])
    model.given = inputs["class_logits"]
    words, masks = make_words(inputs["text_features"]), inputs["mask_logits"]
    size = (masks.shape[1], masks.shape[2])
    regions, valid = model.look(inputs["image"], masks, size)
    seen = Proposed(model.given, masks, regions, valid, size)
    answer = model.label(seen, size, size, words, LABELS | {CLASS_SCORES})
    scores = model.shares(seen, words)[:, :-1]
    alone = adapter["clip_ensemble"] and adapter["clip_ensemble_weight"] == 0
    found = {"output.sem_seg": answer.class_scores, "intermediate.final_mask_cls": scores[valid] if alone else scores}
    if adapter["clip_ensemble"]:
        found |= {"intermediate.valid": valid, "intermediate.clip_logits": model.logits(regions, words)[valid]}
    return found
