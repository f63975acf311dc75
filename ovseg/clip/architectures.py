"""Architectures by name: those of open_clip, and those of published weights that it does not list."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

from ovseg.clip.open_clip_internals import OPENAI_MEAN, OPENAI_STD, import_open_clip
from ovseg.errors import UnknownNameError, unknown_name
from ovseg.system.values import some

OPENAI = {"mean": OPENAI_MEAN, "std": OPENAI_STD}
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


class Architecture(NamedTuple):
    """An architecture that open_clip does not list.

    Attributes:
        model_cfg: As open_clip writes it.
        preprocess: How its images are normalised.
    """

    model_cfg: dict[str, Any]
    preprocess: dict[str, Any]


OWN = {
    "ViT-B-16-SLIP": Architecture(  # github.com/facebookresearch/SLIP: timm's image tower, CLIP's text tower
        {
            "embed_dim": 512,
            "quick_gelu": True,  # of the text tower; timm's has exact GELU
            "vision_cfg": {
                "image_size": 224,
                "timm_model_name": "vit_base_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "token",
                "timm_proj": "linear",
            },
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
        },
        IMAGENET,
    )
}
"""With these come files of LaCLIP (those of CC3M, CC12M and RedCaps) and SynthCLIP."""


def architecture(arch: str) -> dict[str, Any]:
    """Return the config of an architecture, as open_clip writes it.

    Raises:
        UnknownNameError: There is none of this name; near matches are named.
    """
    if arch in OWN:
        return copy.deepcopy(OWN[arch].model_cfg)
    open_clip = import_open_clip()
    if arch not in open_clip.list_models():
        error = unknown_name("CLIP architecture", arch, [*open_clip.list_models(), *OWN])
        raise UnknownNameError(f"{error}; hf:OWNER/NAME is a repository of the hub")
    return dict(open_clip.get_model_config(arch))


def preprocess_of(arch: str) -> tuple[dict[str, Any], str]:
    """Return how images are normalised for files of an architecture, as the tags that open_clip lists of it say.

    Returns:
        ``mean`` and ``std``, OpenAI's where nothing says others. And a note, where the tags do not agree; else empty.
    """
    if arch in OWN:
        return dict(OWN[arch].preprocess), ""
    open_clip = import_open_clip()
    tags = {tag: open_clip.get_pretrained_cfg(arch, tag) for tag in open_clip.list_pretrained_tags_by_model(arch)}
    said = {tag: {name: tuple(config[name]) for name in OPENAI} for tag, config in tags.items()}
    first = next(iter(said.values()), OPENAI)
    if all(found == first for found in said.values()):
        return dict(first), ""
    others = [tag for tag, found in said.items() if found != OPENAI]
    note = f"images are normalised as OpenAI's; weights of {arch} such as {some(others)} need another mean"
    return dict(OPENAI), note
