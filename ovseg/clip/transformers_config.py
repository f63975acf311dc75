"""The config of a CLIPModel of transformers as one of open_clip, where the model is of open_clip's architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovseg.errors import WeightsError

_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}
"""What a config of transformers does not say: the defaults of its classes."""
_LAST = 2  # the end of a text in configs of before 2023, which means: the largest token, as in open_clip
_ACTIVATIONS = ("quick_gelu", "gelu")


def open_clip_config(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return open_clip's model config of a config of transformers; None where open_clip has no such model.

    Args:
        config: Content of ``config.json``.

    Raises:
        WeightsError: A value in it is of a wrong type.
    """
    if config.get("model_type") != "clip":
        return None
    vision, text = (_whole(config, part, known) for part, known in (("vision", _VISION), ("text", _TEXT)))
    act = vision["hidden_act"]
    if act not in _ACTIVATIONS or text["hidden_act"] != act:
        return None
    try:
        return {
            "embed_dim": int(config.get("projection_dim", 512)),
            "vision_cfg": {
                "image_size": int(vision["image_size"]),
                "patch_size": int(vision["patch_size"]),
                "head_width": vision["hidden_size"] // vision["num_attention_heads"],
                **_trunk(vision),
            },
            "text_cfg": {
                "context_length": int(text["max_position_embeddings"]),
                "vocab_size": int(text["vocab_size"]),
                "heads": int(text["num_attention_heads"]),
                **_trunk(text),
                **_end(text),
            },
            **({"quick_gelu": True} if act == "quick_gelu" else {}),
        }
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise WeightsError(f"config.json of a CLIPModel cannot be used ({error}); expected whole numbers") from error


def _whole(config: Mapping[str, Any], part: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a tower with its defaults; old files keep what counts under ``..._config_dict``."""
    given = (config.get(f"{part}_config{suffix}") for suffix in ("", "_dict"))
    found = dict(known)
    for one in given:
        found |= {key: value for key, value in one.items() if value is not None} if isinstance(one, Mapping) else {}
    return found


def _trunk(tower: Mapping[str, Any]) -> dict[str, Any]:
    ratio, eps = tower["intermediate_size"] / tower["hidden_size"], float(tower["layer_norm_eps"])
    return {
        "width": int(tower["hidden_size"]),
        "layers": int(tower["num_hidden_layers"]),
        **({"mlp_ratio": ratio} if ratio != 4 else {}),
        **({"norm_kwargs": {"eps": eps}} if eps != 1e-5 else {}),
    }


def _end(text: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a text is pooled: at its largest token, or at the first one that ends it."""
    end = int(text["eos_token_id"])
    return {} if end in (_LAST, text["vocab_size"] - 1) else {"pool_type": "eos", "eos_id": end}
