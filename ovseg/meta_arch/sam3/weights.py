"""Checkpoints of SAM 3: the authors' file, the folder of transformers, and ours, with the config that goes along."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovseg.checkpoint.files import a_mapping, only_tensors
from ovseg.checkpoint.nesting import unwrap
from ovseg.checkpoint.shards import read_whole, weights_of
from ovseg.checkpoint.strict import Renames, rename, translate
from ovseg.clip.folders import read_json
from ovseg.errors import ConfigError, WeightsError
from ovseg.meta_arch.sam3.network import Sam3Network, build_network

CONFIG = "config.json"
NAME = "SAM 3"
AUTHORS_EPS = 1e-5
"""Of the norms of the image tower in the authors' code; configs of transformers say 1e-6, from which features differ by
some 1e-5."""

_OURS = "clip.model."
_WRAPPED = ("detector_model.", "detector.")
_TRACKER = re.compile(r"(tracker|tracker_model|tracker_neck|inst_interactive_predictor|sam2_predictor)\.")
_NATIVE = "backbone.vision_backbone."
DERIVED = (
    r".+\.freqs_cis",
    r"backbone\.language_backbone\.encoder\.attn_mask",
    r"geometry_encoder\.points_.+",
    r"backbone\.vision_backbone\.sam2_convs\..+",
    r"text_encoder\.text_model\.embeddings\.position_ids",
)
"""What follows from the configuration, and what only clicks and the tracker use."""

_MLP = r"layers\.(\d+)\."
_TEXT, _TRUNK = "text_encoder.text_model.", "vision_encoder.backbone."
_LAYER = (("linear1", "mlp.fc1"), ("linear2", "mlp.fc2"), (r"norm(\d)", r"layer_norm\g<2>"))


def _layers(start: str, target: str, parts: Renames) -> Renames:
    return tuple((rf"{start}(\d+)\.{old}(\..+)", rf"{target}\g<1>.{new}\g<{_groups(old) + 2}>") for old, new in parts)


def _groups(pattern: str) -> int:
    return re.compile(pattern).groups


_FUSION: Renames = (("cross_attn_image", "cross_attn"), ("self_attn", "self_attn"), *_LAYER)
_DECODER: Renames = (
    ("ca_text", "text_cross_attn"),
    ("catext_norm", "text_cross_attn_layer_norm"),
    ("cross_attn", "vision_cross_attn"),
    ("self_attn", "self_attn"),
    ("norm1", "vision_cross_attn_layer_norm"),
    ("norm2", "self_attn_layer_norm"),
    ("norm3", "mlp_layer_norm"),
    *_LAYER[:2],
)
_BLOCK: Renames = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    (r"mlp\.c_fc", "mlp.fc1"),
    (r"mlp\.c_proj", "mlp.fc2"),
)
_RENAMES: Renames = (
    *_layers(
        r"backbone\.language_backbone\.encoder\.transformer\.resblocks\.",
        f"{_TEXT}encoder.layers.",
        (*_BLOCK, (r"attn\.([qkv]_proj|out_proj)", r"self_attn.\g<2>")),
    ),
    (r"backbone\.language_backbone\.encoder\.token_embedding(\..+)", rf"{_TEXT}embeddings.token_embedding\1"),
    (r"backbone\.language_backbone\.encoder\.positional_embedding", f"{_TEXT}embeddings.position_embedding.weight"),
    (r"backbone\.language_backbone\.encoder\.ln_final(\..+)", rf"{_TEXT}final_layer_norm\1"),
    (r"backbone\.language_backbone\.encoder\.text_projection", "text_encoder.text_projection.weight"),
    (r"backbone\.language_backbone\.resizer(\..+)", r"text_projection\1"),
    *_layers(
        r"backbone\.vision_backbone\.trunk\.blocks\.",
        f"{_TRUNK}layers.",
        (
            (r"norm(\d)", r"layer_norm\g<2>"),
            (r"attn\.([qkv]_proj)", r"attention.\g<2>"),
            (r"attn\.(?:proj|out_proj)", "attention.o_proj"),
            (r"mlp", "mlp"),
        ),
    ),
    (
        r"backbone\.vision_backbone\.trunk\.patch_embed\.proj(\..+)",
        rf"{_TRUNK}embeddings.patch_embeddings.projection\1",
    ),
    (r"backbone\.vision_backbone\.trunk\.pos_embed", f"{_TRUNK}embeddings.position_embeddings"),
    (r"backbone\.vision_backbone\.trunk\.ln_pre(\..+)", rf"{_TRUNK}layer_norm\1"),
    *_layers(
        r"backbone\.vision_backbone\.convs\.",
        "vision_encoder.neck.fpn_layers.",
        (
            (r"dconv_2x2(?:_0)?", "scale_layers.0"),
            (r"dconv_2x2_1", "scale_layers.2"),
            (r"conv_1x1", "proj1"),
            (r"conv_3x3", "proj2"),
        ),
    ),
    *_layers(r"transformer\.encoder\.layers\.", "detr_encoder.layers.", _FUSION),
    *_layers(r"transformer\.decoder\.layers\.", "detr_decoder.layers.", _DECODER),
    (rf"transformer\.decoder\.bbox_embed\.{_MLP}(.+)", r"detr_decoder.box_head.layer<\1>.\2"),
    (rf"transformer\.decoder\.boxRPB_embed_([xy])\.{_MLP}(.+)", r"detr_decoder.box_rpb_embed_\1.layer<\2>.\3"),
    (rf"transformer\.decoder\.presence_token_head\.{_MLP}(.+)", r"detr_decoder.presence_head.layer<\1>.\2"),
    (rf"transformer\.decoder\.ref_point_head\.{_MLP}(.+)", r"detr_decoder.ref_point_head.layer<\1>.\2"),
    (r"transformer\.decoder\.presence_token_out_norm(\..+)", r"detr_decoder.presence_layer_norm\1"),
    (r"transformer\.decoder\.norm(\..+)", r"detr_decoder.output_layer_norm\1"),
    (r"transformer\.decoder\.(.+)", r"detr_decoder.\1"),
    (rf"dot_prod_scoring\.prompt_mlp\.{_MLP}(.+)", r"dot_product_scoring.text_mlp.layer<\1>.\2"),
    (r"dot_prod_scoring\.prompt_mlp\.out_norm(\..+)", r"dot_product_scoring.text_mlp_out_norm\1"),
    (r"dot_prod_scoring\.prompt_proj(\..+)", r"dot_product_scoring.text_proj\1"),
    (r"dot_prod_scoring\.hs_proj(\..+)", r"dot_product_scoring.query_proj\1"),
    *_layers(r"geometry_encoder\.encode\.", "geometry_encoder.layers.", _FUSION),
    (r"geometry_encoder\.encode_norm(\..+)", r"geometry_encoder.output_layer_norm\1"),
    (r"geometry_encoder\.img_pre_norm(\..+)", r"geometry_encoder.vision_layer_norm\1"),
    (r"geometry_encoder\.norm(\..+)", r"geometry_encoder.prompt_layer_norm\1"),
    (r"segmentation_head\.cross_attend_prompt(\..+)", r"mask_decoder.prompt_cross_attn\1"),
    (r"segmentation_head\.cross_attn_norm(\..+)", r"mask_decoder.prompt_cross_attn_norm\1"),
    (r"segmentation_head\.instance_seg_head(\..+)", r"mask_decoder.instance_projection\1"),
    (r"segmentation_head\.semantic_seg_head(\..+)", r"mask_decoder.semantic_projection\1"),
    (r"segmentation_head\.mask_predictor\.mask_embed(\..+)", r"mask_decoder.mask_embedder\1"),
    (r"segmentation_head\.pixel_decoder(\..+)", r"mask_decoder.pixel_decoder\1"),
)
_PACKED = re.compile(r"(.+)\.(?:in_proj_|qkv\.)(weight|bias)")
_CHANGED = {
    "text_encoder.text_projection.weight": lambda weight: weight.T,
    f"{_TRUNK}embeddings.position_embeddings": lambda table: table[:, 1:],
}


class Read(NamedTuple):
    """What a path holds: tensors by the names of transformers, the config beside them (empty: none), and notes."""

    state: Mapping[str, Tensor]
    config: Mapping[str, Any]
    source: str
    notes: tuple[str, ...]


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the tensors of the authors' code to the names and shapes of transformers; other names stay."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        packed = _PACKED.fullmatch(key)
        parts = {key: value}
        if packed:
            names = (f"{packed[1]}.{part}_proj.{packed[2]}" for part in "qkv")
            parts = dict(zip(names, value.chunk(3), strict=True))
        for name, part in parts.items():
            own = _attention(rename(name, _RENAMES))
            own = re.sub(r"layer<(\d+)>", lambda match: f"layer{int(match[1]) + 1}", own)
            found[own] = _CHANGED[own](part) if own in _CHANGED else part
    return found


def _attention(key: str) -> str:
    """Name the last projection of attention as transformers does, outside of the text tower."""
    return key if key.startswith("text_encoder.") else key.replace(".out_proj.", ".o_proj.")


def read(path: str | Path) -> Read:
    """Read a checkpoint: a file of the authors, of transformers or of ours, or a folder of transformers.

    Raises:
        WeightsError: It is missing or cannot be read.
    """
    place = Path(os.path.expanduser(path))
    file = weights_of(place) if place.is_dir() else place
    nested = unwrap(a_mapping(read_whole(file).content, file))
    tensors = only_tensors(nested.state, file)
    beside = file.with_name(CONFIG)
    config = read_json(beside) if file.suffix in (".safetensors", ".json") and beside.is_file() else {}
    kept = {_bare(key): value for key, value in tensors.items() if not _TRACKER.match(key)}
    notes = list(nested.notes)
    if left := len(tensors) - len(kept):
        notes.append(f"{file.name}: {left} tensors of the tracker of videos were left out")
    native = any(key.startswith(_NATIVE) for key in kept)
    return Read(to_transformers(kept) if native else kept, config, file.name, tuple(notes))


def _bare(key: str) -> str:
    for start in (_OURS, *_WRAPPED):
        if key.startswith(start):
            return key.removeprefix(start)
    return key


def own_config(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the config of the part that looks at images, also out of that of the whole with its tracker.

    Raises:
        ConfigError: It is of another kind of model.
    """
    inner = config.get("detector_config") or config
    kind = inner.get("model_type")
    if kind != "sam3":
        raise ConfigError(f"the config of {source} is of model_type '{kind}'; expected sam3, as facebook/sam3 has it")
    return dict(inner)


def open_network(weights: str, *, config: str = "", layer_norm_eps: float = AUTHORS_EPS) -> Sam3Network:
    """Build a network, with the weights of a path or random ones.

    Args:
        weights: See `read`; empty for random ones.
        config: File or folder with a ``config.json`` of transformers; empty: that beside the weights, else that of the
            released model.
        layer_norm_eps: Of the image tower; 0 is what the config says.

    Raises:
        WeightsError: The weights are missing, cannot be read or do not fit.
        ConfigError: The config cannot be used.
        EnvironmentProblem: transformers is not installed, or too old.
    """
    found = read(weights) if weights else Read({}, {}, NAME, ())
    said, source = found.config, found.source
    if config:
        place = Path(os.path.expanduser(config))
        file = place / CONFIG if place.is_dir() else place
        said, source = read_json(file), str(file)
    settings = own_config(said, source) if said else {}
    if layer_norm_eps:
        vision = dict(settings.get("vision_config") or {})
        vision["backbone_config"] = {
            "model_type": "sam3_vit_model",
            **(vision.get("backbone_config") or {}),
            "layer_norm_eps": layer_norm_eps,
        }
        settings["vision_config"] = vision
    network = build_network(settings, NAME, empty=bool(weights))
    if weights:
        fill(network, found.state, found.source)
        network.notes = found.notes
    return network


def fill(network: Sam3Network, state: Mapping[str, Tensor], source: str) -> None:
    """Load tensors by the names of transformers, all of them and nothing else.

    Raises:
        WeightsError: Names the first that are missing, unexpected or mis-shaped.
    """
    with torch.no_grad():
        own = network.model.state_dict()
        if not state:
            raise WeightsError(f"{source} holds no tensors of {NAME}")
        network.model.load_state_dict(translate(own, state, str, source, NAME, DERIVED))
    network.refresh()
