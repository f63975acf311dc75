"""What a checkpoint looks like that is no CLIP, by the names of its tensors, and what can be done with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Look(NamedTuple):
    """A kind of checkpoint.

    Attributes:
        words: What it is.
        names: Regular expressions; each is found at the start of some name.
        without: None of these is.
        mend: What to do with it, where there is something.
    """

    words: str
    names: tuple[str, ...]
    without: tuple[str, ...] = ()
    mend: str = ""


_ANY = r"(?:.*\.)?"
LOOKS = (
    Look("a LoRA adapter", (rf"{_ANY}lora_(?:A|B|up|down)\b",), mend="merge it into its CLIP, and give the result"),
    Look("quantised weights", (rf"{_ANY}(?:qweight|SCB|absmax|weight_scale|scale_weight)\b",), mend="get float ones"),
    Look(
        "a model of SAN",
        (r"side_adapter_network\.",),
        mend="--model san-vit-b-16, with the file as MODEL.WEIGHTS, runs it",
    ),
    Look(
        "a model of FC-CLIP, MAFT+ or the like",
        (r"backbone\.clip_model\.", r"sem_seg_head\."),
        mend="--model fcclip-convnext-l (or another of `ovseg models`), with the file as MODEL.WEIGHTS, runs it",
    ),
    Look("a mask head of Detectron2, such as Mask2Former", (r"sem_seg_head\.",)),
    Look(
        "a detector of Detectron2", (r"(?:backbone\.(?:bottom_up|fpn_|res\d|stem)|roi_heads\.|proposal_generator\.)",)
    ),
    Look("a trained head of ovseg", (r"side_adapter\.|pixel_decoder\.|decoder\.layers\.",), mend="it is MODEL.WEIGHTS"),
    Look(
        "weights of JAX (big_vision)",
        (r"(?:params/|opt/)",),
        mend="take open_clip's file of it, such as ViT-B-16-SigLIP/webli",
    ),
    Look("BLIP", (r"visual_encoder\.", r"text_(?:encoder|decoder)\.|Qformer\.|itm_head")),
    Look("Segment Anything", (r"(?:image|vision)_encoder\.", r"(?:mask_decoder|prompt_encoder)\.")),
    Look(
        "MobileCLIP in the layout of its own code",
        (r"image_encoder\.model\.", r"text_encoder\."),
        mend="take open_clip's file of it, such as MobileCLIP-S1/datacompdr",
    ),
    Look("a diffusion model", (r"(?:model\.diffusion_model|down_blocks|mid_block|first_stage_model|encoder\.down)\b",)),
    Look(
        "EVA-CLIP in the layout of its own code",
        (r"visual\.blocks\.\d+\.attn\.", r"(?:text\.|transformer\.)"),
        mend="take open_clip's file of it, such as EVA02-B-16/merged2b_s8b_b131k",
    ),
    Look(
        "Chinese-CLIP in the layout of its own code",
        (r"visual\.", r"bert\."),
        mend="take OFA-Sys/chinese-clip-vit-base-patch16, which is in that of transformers",
    ),
    Look(
        "an image-text model of transformers with a text tower that open_clip has not",
        (r"vision_model\.", r"text_model\."),
        mend="give its whole folder, METHOD/path/to/folder, with config.json in it",
    ),
    Look("the image tower of a CLIP of transformers alone", (r"vision_model\.",), ("text_model",)),
    Look("the text tower of a CLIP of transformers alone", (r"text_model\.",), ("vision_model",)),
    Look("the image tower of a CLIP alone", (r"visual\.",), ("transformer", "text", "token_embedding")),
    Look("the text tower of a CLIP alone", (r"token_embedding\.", r"transformer\."), ("visual",)),
    Look("a vision-language model", (r"(?:language_model|llm|model\.layers\.\d+\.self_attn|lm_head)\b",)),
    Look("DINOv2 or DINOv3", (r"(?:register_tokens|blocks\.\d+\.ls1\.gamma|layer\.\d+\.layer_scale1)",)),
    Look("a vision transformer without texts (DINO, MAE, timm)", (r"blocks\.\d+\.", r"(?:patch_embed|cls_token)")),
    Look(
        "a vision transformer of transformers without texts", (r"(?:\w+\.)?embeddings\.", r"(?:\w+\.)?encoder\.layer")
    ),
    Look("a ResNet that classifies images", (r"layer1\.0\.", r"(?:fc|conv1)\."), ("visual",)),
    Look("a ConvNeXt that classifies images", (r"(?:stages|downsample_layers)\.0\.",)),
    Look("an optimizer's state", (r"(?:optimizer|param_groups|state$|exp_avg)",)),
)
"""The first that fits is it, so the particular come before the general."""


def look_of(names: Iterable[str]) -> str:
    """Say what a checkpoint looks like and what to do with it, by the names of its tensors; empty for no guess."""
    known = list(names)
    for look in LOOKS:
        if any(name.partition(".")[0] in look.without for name in known):
            continue
        if all(any(re.match(pattern, name) for name in known) for pattern in look.names):
            return f"it looks like {look.words}{f': {look.mend}' if look.mend else ''}"
    return ""
