"""The config of a tiny SAM 3, whose text tower knows the tokens of CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_WIDTH = {"hidden_size": 16, "num_attention_heads": 2}
_TRANSFORMER = {**_WIDTH, "intermediate_size": 32}
TINY: dict[str, Any] = {
    "model_type": "sam3",
    "vision_config": {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            **{"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"image_size": 56, "patch_size": 14, "window_size": 2, "global_attn_indexes": [1]},
            "pretrain_image_size": 28,
        },
        "fpn_hidden_size": 16,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    },
    "text_config": {
        "model_type": "clip_text_model",
        **{"vocab_size": 49408, "hidden_size": 16, "intermediate_size": 32, "projection_dim": 16},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32, "hidden_act": "gelu"},
        **{"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407},
    },
    "geometry_encoder_config": {**_TRANSFORMER, "num_layers": 1, "roi_size": 3},
    "detr_encoder_config": {**_TRANSFORMER, "num_layers": 2},
    "detr_decoder_config": {**_TRANSFORMER, "num_layers": 2, "num_queries": 6},
    "mask_decoder_config": {**_WIDTH, "num_upsampling_stages": 3},
}


def write_config(folder: Path, **changes: Any) -> Path:
    """Write the config into a folder, and return that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**TINY, **changes}), encoding="utf-8")
    return folder
