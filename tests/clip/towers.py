"""Narrowed random towers of every family: one table that the tests of towers, methods and docs/towers.md share.

`TOWERS` names each family and what builds a tower of it: a function of the number of blocks (what has none ignores it)
that returns a `Tower` on the CPU in float32, a few dozen channels wide, with random weights that are the same each time
and large enough to matter (see `narrow`). A new kind of tower adds its families here and nowhere else.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ovseg.clip import Tower
from ovseg.clip.hf.clip import HfClip
from ovseg.clip.open_clip_internals import build_model, import_open_clip
from ovseg.clip.towers import KINDS
from tests.clip import narrow_hf
from tests.clip.narrow_timm import small

Builder = Callable[[int], Tower]
WIDTH = 32
SMALL_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
DIM = 16


def narrow(arch: str, vision: dict[str, Any], text: dict[str, Any] | None = None, **changes: Any) -> Tower:
    """Build an architecture of open_clip with few channels, by the kind of tower that its config fits.

    Args:
        arch: Its name in open_clip; everything that is not changed stays as it has it.
        vision: What is changed in its ``vision_cfg``.
        text: What is changed in its ``text_cfg``; None makes it a small one of open_clip's own.
        changes: What is changed beside the two.
    """
    config = copy.deepcopy(import_open_clip().get_model_config(arch))
    config["embed_dim"] = DIM
    config["vision_cfg"] |= vision
    config["text_cfg"] = {**config["text_cfg"], **text} if text is not None else dict(TEXT)
    config |= changes
    kind: Any = next(kind.reader for kind in KINDS if kind.fits(config))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, arch, kind.check_config)
        stir(model)
    return kind.from_config(config, model.state_dict(), arch)


def stir(model: nn.Module) -> None:
    """Add noise to all weights, those that start at 0 or 1 too, so that no part of a model is without effect."""
    if decoder := getattr(model, "text_decoder", None):  # open_clip leaves this one as the memory was
        nn.init.zeros_(decoder.text_projection)
    for value in model.parameters():
        value.data += 0.1 * torch.randn_like(value)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:  # else hardly anything passes them
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            model.train().visual(torch.randn(8, 3, 64, 64))
        model.eval()


def vit(arch: str, **vision: Any) -> Builder:
    """Return the builder of a vision transformer of open_clip's own."""
    return lambda blocks: narrow(
        arch, {"width": 32, "head_width": 8, "mlp_ratio": 2, "layers": blocks, "image_size": 64, **vision}
    )


def timm(arch: str, name: str, embed_dim: int = DIM, **changes: Any) -> Builder:
    """Return the builder of a vision transformer of timm in open_clip's adapter; see `tests.clip.narrow_timm`."""
    text = {**SMALL_TEXT, "hf_tokenizer_name": ""} if embed_dim == WIDTH else None
    return lambda blocks: narrow(
        arch, {"timm_model_name": small(name, blocks, **changes), "image_size": 64}, text, embed_dim=embed_dim
    )


def coca(arch: str = "coca_ViT-B-32", **vision: Any) -> Builder:
    """Return the builder of a CoCa, whose text decoder is as small as the rest."""
    small_vision = {"patch_size": 16, "attn_pooler_heads": 2, "attn_pooler_queries": 5, **vision}
    return lambda blocks: narrow(
        arch,
        {"width": WIDTH, "head_width": 8, "mlp_ratio": 2, "layers": blocks, "image_size": 64, **small_vision},
        SMALL_TEXT,
        embed_dim=WIDTH,
        multimodal_cfg={"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    )


def clipa(blocks: int) -> Tower:
    """Build a CLIPA: no class embedding, the norm behind the mean, texts that see all of themselves."""
    vision = {"width": WIDTH, "head_width": 8, "mlp_ratio": 2, "layers": blocks, "image_size": 64, "patch_size": 16}
    return narrow("ViT-L-14-CLIPA", vision, {**SMALL_TEXT, "hf_tokenizer_name": "", "tokenizer_kwargs": {}})


FOLDERS = tempfile.TemporaryDirectory(prefix="ovseg-towers-")
"""Where folders lie that towers read their tokenizers from, to the end of the process."""


def hf(kind: str, **text: Any) -> Builder:
    """Return the builder of a model of transformers; see `tests.clip.narrow_hf`."""

    def build(blocks: int) -> Tower:
        folder = Path(FOLDERS.name) / kind / str(blocks)
        if not folder.exists():
            narrow_hf.save(folder, *narrow_hf.model_of(kind, blocks, {"hidden_act": "gelu_pytorch_tanh"}, **text))
        return HfClip.from_folder(folder)

    return build


def hf_text(arch: str, name: str) -> Builder:
    """Return the builder of a CLIP of open_clip whose text tower is one of transformers."""

    def build(blocks: int) -> Tower:
        folder = Path(FOLDERS.name) / name
        if not folder.exists():
            narrow_hf.save_text_tower(folder, name)
        vision = {"width": WIDTH, "head_width": 8, "layers": blocks, "image_size": 64, "patch_size": 16}
        return narrow(arch, vision, {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)})

    return build


TOWERS: dict[str, Builder] = {
    "ViT (OpenAI, LAION, MetaCLIP, DFN)": vit("ViT-B-16-quickgelu"),
    "ViT without a class embedding (pool_type avg)": vit("ViT-B-32", pool_type="avg", patch_size=16),
    "ViT with norms behind its heads": vit("ViT-B-32", patch_size=16, scale_attn_inner=True, qk_norm=True),
    "CLIPA": clipa,
    "CoCa": coca(),
    "CoCa (parallel pools)": coca(attentional_pool="parallel"),
    "CoCa (cascade of pools)": coca(attentional_pool="cascade"),
    "CoCa without attention pool": coca(attentional_pool=False),
    "EVA-01": timm("EVA01-g-14", "eva_giant_patch14_224"),
    "EVA-02": timm("EVA02-B-16", "eva02_base_patch16_clip_224"),
    "EVA-02 E (norms behind the halves)": timm("EVA02-E-14", "eva02_enormous_patch14_clip_224"),
    "SigLIP, SigLIP 2": timm("ViT-B-16-SigLIP2", "vit_base_patch16_siglip_224", WIDTH),
    "SigLIP (SO400M)": timm("ViT-SO400M-14-SigLIP-384", "vit_so400m_patch14_siglip_384", WIDTH),
    "PE": timm("PE-Core-B-16", "vit_pe_core_base_patch16_224"),
    "PE (bigG, no class token)": timm("PE-Core-bigG-14-448", "vit_pe_core_gigantic_patch14_448"),
    "ViTamin": timm("ViTamin-S", "vitamin_small_224"),
    "MobileCLIP-B": timm("MobileCLIP-B", "vit_base_mci_224"),
    "MobileCLIP-S, MobileCLIP2-S (FastViT)": timm("MobileCLIP2-S0", "fastvit_mci0"),
    "MobileCLIP2-S3 and S4 (FastViT of five stages)": timm("MobileCLIP2-S3", "fastvit_mci3"),
    "MobileCLIP2-L": timm("MobileCLIP2-L-14", "vit_large_patch14_clip_224"),
    "ViT of timm (mean of patches)": timm("vit_medium_patch16_gap_256", "vit_medium_patch16_gap_256"),
    "CLIP (transformers)": hf("clip"),
    "MetaCLIP 2 (transformers)": hf("metaclip_2"),
    "AltCLIP": hf("altclip"),
    "Chinese-CLIP": hf("chinese_clip"),
    "SigLIP (transformers)": hf("siglip"),
    "SigLIP 2 NaFlex": hf("siglip2"),
    "ViT with texts by XLM-R": hf_text("xlm-roberta-base-ViT-B-32", "xlm-roberta"),
    "ViT with texts by mT5": hf_text("mt5-base-ViT-B-32", "mt5"),
    "ResNet": lambda blocks: narrow("RN50", {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "head_width": 64}),
    "ConvNeXt": lambda blocks: narrow("convnext_base", {"timm_model_name": "test_convnext", "image_size": 64}),
}
