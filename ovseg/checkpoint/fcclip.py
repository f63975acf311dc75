"""Checkpoints of FC-CLIP: the released ones (github.com/bytedance/fc-clip), and ours with or without CLIP inside.

MAFT+ names what it shares with FC-CLIP alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from ovseg.checkpoint.files import read_part
from ovseg.checkpoint.strict import rename, translate

_PIXEL = "sem_seg_head.pixel_decoder."
_ENCODER = _PIXEL + r"transformer.encoder.layers.\1"
_DECODER = "sem_seg_head.predictor."
HEAD = (
    (r"pixel_decoder\.layers\.(\d+)\.attention\.offsets\.(.+)", _ENCODER + r".self_attn.sampling_offsets.\2"),
    (r"pixel_decoder\.layers\.(\d+)\.attention\.weights\.(.+)", _ENCODER + r".self_attn.attention_weights.\2"),
    (r"pixel_decoder\.layers\.(\d+)\.attention\.(value|output)\.(.+)", _ENCODER + r".self_attn.\2_proj.\3"),
    (r"pixel_decoder\.layers\.(\d+)\.(.+)", _ENCODER + r".\2"),
    (r"pixel_decoder\.level_embed", _PIXEL + "transformer.level_embed"),
    (r"pixel_decoder\.lateral\.0\.(.+)", _PIXEL + r"adapter_1.\1"),
    (r"pixel_decoder\.lateral\.1\.(.+)", _PIXEL + r"adapter_1.norm.\1"),
    (r"pixel_decoder\.smooth\.0\.(.+)", _PIXEL + r"layer_1.\1"),
    (r"pixel_decoder\.smooth\.1\.(.+)", _PIXEL + r"layer_1.norm.\1"),
    (r"pixel_decoder\.(.+)", _PIXEL + r"\1"),
    (r"decoder\.layers\.(\d+)\.cross\.(.+)", _DECODER + r"transformer_cross_attention_layers.\1.multihead_attn.\2"),
    (r"decoder\.layers\.(\d+)\.cross_norm\.(.+)", _DECODER + r"transformer_cross_attention_layers.\1.norm.\2"),
    (r"decoder\.layers\.(\d+)\.own\.(.+)", _DECODER + r"transformer_self_attention_layers.\1.self_attn.\2"),
    (r"decoder\.layers\.(\d+)\.own_norm\.(.+)", _DECODER + r"transformer_self_attention_layers.\1.norm.\2"),
    (r"decoder\.layers\.(\d+)\.(.+)", _DECODER + r"transformer_ffn_layers.\1.\2"),
    (r"decoder\.pool_proj\.(.+)", _DECODER + r"_mask_pooling_proj.\1"),
    (r"decoder\.log_scale", _DECODER + "logit_scale"),
    (r"decoder\.(.+)", _DECODER + r"\1"),
    (r"void\.(.+)", r"void_embedding.\1"),
)
"""Our names of the trained parts, and those of the original; MAFT+ has the same."""
CLIP = ((r"clip\.model\.(.+)", r"backbone.clip_model.\1"),)
# Class weights of the loss for the classes of the training, and masks and constants that older files store.
DERIVED = (r"criterion\.empty_weight", r"backbone\.clip_model\.attn_mask", "pixel_mean", "pixel_std")


class Weights(NamedTuple):
    """A checkpoint: its tensors by name, and what to call it."""

    state: Mapping[str, Tensor]
    source: str

    @classmethod
    def read(cls, path: str | Path) -> Weights:
        """Read a file as Detectron2 or safetensors write it.

        Raises:
            WeightsError: It is missing or cannot be read.
        """
        return cls(read_part(path, "model"), Path(path).name)

    @property
    def official(self) -> bool:
        """Whether its names are those of the original."""
        return any(key.startswith(_DECODER) for key in self.state)

    @property
    def holds_clip(self) -> bool:
        """Whether it brings its whole CLIP along; the released ones do."""
        return any(f"{start}.logit_scale" in self.state for start in ("clip.model", "backbone.clip_model"))


def official_name(key: str) -> str:
    """Return the original's name of one of our tensors."""
    return rename(key, (*CLIP, *HEAD))


def load_fcclip(model: nn.Module, weights: Weights) -> None:
    """Load a checkpoint strictly, of either layout; weights that are still on ``meta`` are put in place.

    Args:
        model: An `FCCLIP` of the same configuration.
        weights: Of the original, or ours; ours may lack all of CLIP.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped.
    """
    own = model.state_dict()
    if weights.official:
        ours = translate(own, weights.state, official_name, weights.source, "FC-CLIP", DERIVED)
    else:
        wanted = own if weights.holds_clip else {key: own[key] for key in own if not key.startswith("clip.")}
        ours = translate(wanted, weights.state, str, weights.source, "FC-CLIP")
    assign(model, ours)


def assign(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put tensors in place that fit; what lies on ``meta`` is replaced, the rest is copied into."""
    own = model.state_dict()
    empty = {key: value.to(own[key].dtype) for key, value in state.items() if own[key].is_meta}
    model.load_state_dict(empty, strict=False, assign=True)
    model.load_state_dict({key: value for key, value in state.items() if key not in empty}, strict=False)
