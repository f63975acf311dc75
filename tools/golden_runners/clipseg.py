"""CLIPSeg: its decoder, whole images by prompts of text or pictures, and how pictures become prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golden_runners.common import build_clip, raw_pixels
from golden_runners.product import make_words
from ovseg.checkpoint.loading import Weights
from ovseg.checkpoint.strict import translate
from ovseg.clip import ViTClip
from ovseg.data.preprocessing import SizeRule
from ovseg.losses.class_maps import ClassMapCriterion, Questions
from ovseg.meta_arch.clipseg import CLIPSeg
from ovseg.meta_arch.clipseg.decoder import Decoder
from ovseg.meta_arch.clipseg.prompting import crop, highlight
from ovseg.meta_arch.clipseg.weights import official_name


def run(case: Any) -> dict[str, Tensor]:
    """Return all outputs and intermediates of a case."""
    inputs = case.group("input")
    if "mask" in inputs:
        return visual_prompt(case)
    with torch.inference_mode():
        return decoder(case) if "activation.0" in inputs else whole(case)


def visual_prompt(case: Any) -> dict[str, Tensor]:
    """Return the picture of a prompt, before and after it is cut out."""
    inputs, config = case.group("input"), case.config
    own = (config.get("blur_sigma", 0), config.get("gaussian_kernel", 15), config.get("bg_fac", 1))
    shown = highlight(inputs["image"], inputs["mask"], *own)
    cut = crop(shown, inputs["mask"], config["image_size"], config.get("context", 0.1))
    return {"output.blur_highlight": shown, "output.crop_blur_highlight": cut}


def decoder_of(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Decoder:
    """Build the decoder of a case, untrained."""
    own = config.get("reduce_cond") or 0
    blocks = len({key.split(".")[1] for key in state if key.startswith("extra_blocks.")})
    return Decoder(
        config["width"],
        config["embed_dim"],
        config["patch_size"],
        1,
        layers=tuple(config["extract_layers"]),
        dim=config["reduce_dim"],
        decoder_heads=config["n_heads"],
        ffn=state["blocks.0.linear1.weight"].shape[0],
        condition_at=config.get("cond_layer", 0),
        prompt_dim=own,
        extra_blocks=blocks,
        deepest_first=not config.get("rev_activations", False),
        refined=config.get("complex_trans_conv", False),
    )


def decoder(case: Any) -> dict[str, Tensor]:
    """Run the decoder on the tokens of a case, each image by its own prompt."""
    inputs, state = case.group("input"), case.group("state_dict")
    module = decoder_of(case.config, state).eval()
    own = {f"decoder.{key}": value for key, value in module.state_dict().items()}
    found = translate(own, state, official_name, case.name, "the decoder", (r"reduce\..+", r"(clip_)?model\..+"))
    module.load_state_dict({key.removeprefix("decoder."): value for key, value in found.items()})
    tokens = [inputs[f"activation.{i}"].transpose(0, 1) for i in range(len(module.layers))]
    side = int((tokens[0].shape[1] - 1) ** 0.5)
    seen = module.look(tokens)
    prompts = inputs["conditional"]
    maps = [module.logits(module(one, row[None], (side, side))) for one, row in zip(seen, prompts, strict=True)]
    logits = torch.stack(maps)
    return {"output.logits": logits, "output.probabilities": logits.sigmoid()}


def clip_of(case: Any) -> ViTClip:
    """Build the CLIP of a case."""
    config = case.config
    state = {f"visual.{k.removeprefix('model.')}": v for k, v in case.group("state_dict").items() if k[:6] == "model."}
    grid = config["image_size"] // config["patch_size"]
    hidden = state["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0]
    own = {
        "pretrain_grid": (grid, grid),
        "activation": "quickgelu",
        "mlp_ratio": hidden / config["width"],
        "ln_eps": 1e-5,
    }
    return build_clip({**config, **own}, state)


def whole(case: Any) -> dict[str, Tensor]:
    """Run the product's path on each image with its own prompt, and answer at the size of the images."""
    inputs, config, state = case.group("input"), case.config, case.group("state_dict")
    images, clip = inputs["image"], clip_of(case)
    model = CLIPSeg(
        clip=clip,
        decoder=decoder_of(config, state),
        criterion=ClassMapCriterion(),
        size_rule=SizeRule(1, 1),
        weights=Weights(state, case.name),
        templates="none",
        background="none",
        resolution=images.shape[-1],
        normalisation="clip",
    ).eval()
    prompts = inputs.get("conditional")
    if prompts is None:
        prompts = clip.dense(inputs["conditional_image"]).cls
    encoded = model.encode(raw_pixels(clip, images))
    size = (images.shape[2], images.shape[3])
    answers = [model.answer(encoded, i, size, make_words(row[None]), model.gives) for i, row in enumerate(prompts)]
    seen = [one.tokens for one in encoded.images]
    read = [model.decoder(own, row[None], model.grid) for own, row in zip(seen, prompts, strict=True)]
    logits = torch.stack([model.decoder.logits(own) for own in read])
    used = prompts if model.decoder.reduce_prompt is None else model.decoder.reduce_prompt(prompts)
    tokens = model.activations(images)
    found = {
        "output.logits": logits,
        "output.probabilities": torch.stack([answer.class_scores for answer in answers]),
        "intermediate.conditional_used": used,
        "intermediate.visual_embedding": clip.dense(images).cls,
        **{f"intermediate.activation.{i}": own.transpose(0, 1) for i, own in enumerate(tokens)},
    }
    if "target" in inputs:
        asked = [Questions(one, None) for one in inputs["target"]]
        found["output.bce_loss"] = ClassMapCriterion()(list(logits), asked)
        plain = F.binary_cross_entropy_with_logits(logits, inputs["target"])
        if not torch.allclose(plain, found["output.bce_loss"], atol=1e-6):
            raise ValueError(f"the loss is {found['output.bce_loss']:.6f}, and by PyTorch {plain:.6f}")
    return found
