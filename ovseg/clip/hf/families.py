"""Which models of transformers are towers, and how each wants its texts; transformers itself is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ovseg.clip.open_clip_internals import OPENAI_MEAN, OPENAI_STD
from ovseg.clip.tokens import ATTENTION, CLASS_EMBEDDING, CLASS_TOKEN, DENSE, HEADS_ADD, POSITIONS, STREAM
from ovseg.errors import ConfigError

OPENAI = (OPENAI_MEAN, OPENAI_STD)
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

CAUSAL, MASKED, PADDED = "causal", "masked", "padded"


class Family(NamedTuple):
    """A family of models.

    Attributes:
        word: What to call it.
        model: Its class in transformers.
        texts: What a token sees: those before it (`CAUSAL`), all but padding (`MASKED`), or all, so that every text is
            padded to the same length (`PADDED`).
        room: The longest text that it was trained with, in tokens, where it could take more; 0 is what its tables say.
        normalisation: Mean and deviation of its images, where no file beside the config says them.
        clean: How texts are written before they are cut into tokens, of open_clip's ways.
    """

    word: str
    model: str
    texts: str
    room: int = 0
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]] = OPENAI
    clean: str = "whitespace"


FAMILIES = {
    "clip": Family("a CLIPModel", "CLIPModel", CAUSAL),
    "metaclip_2": Family("a MetaClip2Model", "MetaClip2Model", CAUSAL),
    "altclip": Family("an AltCLIPModel", "AltCLIPModel", MASKED, room=77),
    "chinese_clip": Family("a ChineseCLIPModel", "ChineseCLIPModel", MASKED, room=52),
    "siglip": Family("a SiglipModel", "SiglipModel", PADDED, 0, HALVES, "lower"),
    "siglip2": Family("a Siglip2Model", "Siglip2Model", PADDED, 0, HALVES, "lower"),
}
"""By ``model_type``. AltCLIP was trained with texts of 77 tokens (arXiv 2211.06679), Chinese-CLIP of 52 (arXiv
2211.01335); SigLIP's texts are lower case (arXiv 2303.15343, 2502.14786)."""

TOKEN_TOWER = frozenset({DENSE, STREAM, ATTENTION, POSITIONS})
CLASS_TOWER = TOKEN_TOWER | {CLASS_TOKEN, CLASS_EMBEDDING, HEADS_ADD}
"""What image towers have that pool by attention (SigLIP), and those whose class token becomes the embedding (CLIP)."""

_VOLATILE = (
    *("transformers_version", "_name_or_path", "torch_dtype", "dtype", "architectures"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal"),
)


def fits(config: Mapping[str, Any]) -> bool:
    """Tell whether a config is one of transformers; `check_config` says whether its model can be run."""
    return "vision_cfg" not in config and ("model_type" in config or "auto_map" in config)


def check_config(model_cfg: dict[str, Any], name: str) -> None:
    """Refuse configs that cannot be run.

    Raises:
        ConfigError: The model is of no family, or needs code that came with it.
    """
    kind = model_cfg.get("model_type")
    if "auto_map" in model_cfg:
        raise ConfigError(
            f"{name} ({kind}) needs code of its own (trust_remote_code), which ovseg never runs; use a model that is "
            f"part of transformers: {', '.join(family.model for family in FAMILIES.values())}"
        )
    if kind not in FAMILIES:
        raise ConfigError(f"{name} is a {kind} of transformers; expected model_type {' or '.join(FAMILIES)}")
    vision = model_cfg.get("vision_config")
    if kind in ("siglip", "siglip2") and isinstance(vision, Mapping) and vision.get("vision_use_head") is False:
        raise ConfigError(f"{name} does not pool (vision_use_head is false), so it has no embedding of an image")


def has_of(config: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return what the tower of a config has of the names of `ovseg.clip.tokens`; errors are those of `check_config`."""
    check_config(dict(config), name)
    return TOKEN_TOWER if config["model_type"] in ("siglip", "siglip2") else CLASS_TOWER


def meaning(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what changes from version to version and gives weights no meaning; towers likewise."""
    return {
        key: meaning(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in _VOLATILE
    }
