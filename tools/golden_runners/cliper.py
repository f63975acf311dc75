"""CLIPer: fused attention, maps of all layers, windows, compensation by given attention maps, scores and labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from golden_runners.common import build_clip, build_method, empty_context, show
from golden_runners.product import make_words
from ovseg.clip import Context, ViTClip
from ovseg.contract import Words
from ovseg.guides import Guide
from ovseg.labelling.scores import ScoreRule
from ovseg.recalibration.cliper import layer_fusion
from ovseg.recalibration.cliper.attention_chain import chain_attention, presence
from ovseg.recalibration.cliper.layer_maps import Layers, layer_logits
from ovseg.recalibration.cliper.method import CLIPer

# The original's own background, where it has no threshold, wins up to the m at which (1 - m)^2 equals m.
OWN_BACKGROUND = (3 - 5**0.5) / 2
REFINEMENTS = ("sfsa", "mean", "selection")


class GivenMaps(Guide):
    """Attention maps of a case."""

    def __init__(self, maps: Tensor) -> None:
        """Keep the maps (1, M, n, n)."""
        super().__init__()
        self.maps = maps

    def attention_maps(self, context: Context) -> Tensor:
        """Return them for any image."""
        return self.maps


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs, and the intermediates of the whole image."""
    inputs, config = case.group("input"), case.config
    clip = build_clip(tower_config(config), case.group("state_dict"))
    texts = queries(inputs)
    method, size = build(config, given_maps(inputs, config)), (config["label_size"][0], config["label_size"][1])
    shown = show(build_method(clip, method, rule=rule(config, final=True)), inputs["image"], texts)
    labels = shown.labels(size)
    seg = refined = shown.otherwise(method=build(config, None)).scores[0, texts.query_to_class >= 0]
    if isinstance(guide := method.compensation.guide, GivenMaps):
        refined = chain_attention(seg[None], guide.maps, method.refinement, method.attention_thr)[0]
    found = {"output.seg": seg, "output.refined": refined, "output.final_score": presence(refined[None], seg[None])[0]}
    found["output.scores"] = shown.otherwise(rule=rule(config, final=False)).class_scores(size)[0]
    found["output.label"] = labels + 1
    return found | intermediates(clip, method, shown.dense[0].context, case)


def given_maps(inputs: dict[str, Tensor], config: Any) -> GivenMaps | None:
    """Return the attention that refines; a case without refinement has none, or none that counts."""
    if str(config.get("refinement")).lower() not in REFINEMENTS:
        return None
    return GivenMaps(torch.cat([inputs[f"sd_attn_layer_{layer}"] for layer in config["attention_layers_order"]], dim=1))


def build(config: Any, guide: Guide | None) -> CLIPer:
    """Build the method by the names of the original's settings."""
    refinement = str(config.get("refinement")).lower()
    side = config.get("sliding_crop_size")
    return CLIPer(
        attn_type=config["attn_type"],
        fuse_feature=config["fuse_feature"],
        select_layer=config["select_layer"],
        logit_scale=config["logit_scale"],
        attention_thr=config["attention_thr"],
        windows=(side, config["sliding_stride"]) if side else (),
        guide=guide,
        refinement={"selection": config.get("attention_idx", 1), "mean": "mean"}.get(refinement, "SFSA"),
        words_win=False,
        half_position=True,
    )


def rule(config: Any, final: bool) -> ScoreRule:
    """Return how scores become maps or, finally, labels."""
    if not final:
        return ScoreRule(1.0, softmax=False, keep_peak=True)
    threshold = config.get("bkg_thre") or 0.0
    return ScoreRule(
        1.0,
        prob_threshold=threshold if threshold > 0 else OWN_BACKGROUND,
        min_max=config.get("is_normalize", False),
        softmax=False,
        keep_peak=True,
        score_threshold=config.get("score_threshold") or 0.0,
    )


def queries(inputs: dict[str, Tensor]) -> Words:
    """Return the classes, and the background words as queries of no class."""
    classes = inputs["fg_text"]
    words = inputs.get("bg_text", classes[:0])
    ids = torch.cat([torch.arange(len(classes)), torch.full((len(words),), -1)])
    return make_words(torch.cat([classes, words]), ids)


def tower_config(config: Any) -> dict[str, Any]:
    """Return the settings of the CLIP under the names of the other cases."""
    side = config["input_resolution"] // config["patch_size"]
    more = {"pretrain_grid": (side, side), "embed_dim": config["output_dim"], "activation": config["act"]}
    return {"mlp_ratio": 4.0, **config, **more}


def intermediates(clip: ViTClip, method: CLIPer, context: Context, case: Any) -> dict[str, Tensor]:
    """Return what the case shows of the whole image; of layers only where all of them were computed."""
    kept = context.kept(Layers)
    found = {"intermediate.final_attn_headmean_patches": kept.weights[0]}
    dense = method.joint(kept.tokens[-1], context)
    if method.fuse_feature:
        layers = [context.tower.head(tokens)[0][0] for tokens in kept.tokens]
        found["intermediate.layer_embeddings"] = torch.stack(layers)
        logits = layer_logits(method.joint, dense, queries(case.group("input")), method.logit_scale)
        found["intermediate.layer_logits"] = logits[:, 0].flatten(2).mT
    if method.attn_type == "fused-attn":
        again = empty_context(clip, context.grid, context.images)
        tokens, total = layer_fusion.embed_in_half(again, method.pos_resize), 0
        for block in clip.blocks[:-1]:
            tokens, weights = block.with_attention(tokens)
            total = total + weights
        found["intermediate.attn_sum"] = total
        given = [total := layer_fusion.balance(total) for _ in clip.blocks]
        found["intermediate.fused_attn_first_layer"] = layer_fusion.recalibrate(given[0])[0]
        found["intermediate.final_attn"] = layer_fusion.recalibrate(given[-1])[0]
    return found
