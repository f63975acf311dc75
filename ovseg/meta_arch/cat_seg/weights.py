"""How the released checkpoints of CAT-Seg (github.com/cvlab-kaist/CAT-Seg) name what we do."""

from __future__ import annotations

from ovseg.aggregation.upsampling import OFFICIAL as UPSAMPLING
from ovseg.checkpoint.loading import Official
from ovseg.checkpoint.strict import rename

_HEAD = "sem_seg_head.predictor."
_AGGREGATOR = f"{_HEAD}transformer."
_SWIN, _CLASSES = _AGGREGATOR + r"layers.\1.swin_block.", _AGGREGATOR + r"layers.\1.attention."
_UP = _AGGREGATOR + r"decoder{}."
NAMES = (
    (r"aggregator\.embed\.(.+)", _AGGREGATOR + r"conv1.\1"),
    (r"aggregator\.guide\.(.+)", _AGGREGATOR + r"guidance_projection.0.\1"),
    (r"aggregator\.guide_text\.(.+)", _AGGREGATOR + r"text_guidance_projection.0.\1"),
    (r"aggregator\.decoder\.guides\.(\d)\.(.+)", _AGGREGATOR + r"decoder_guidance_projection.\1.0.\2"),
    (r"aggregator\.spatial\.(\d+)\.norm\.(.+)", _SWIN + r"guidance_norm.\2"),
    (r"aggregator\.spatial\.(\d+)\.blocks\.0\.(q|k|v|proj)\.(.+)", _SWIN + r"block_1.attn.\2.\3"),
    (r"aggregator\.spatial\.(\d+)\.blocks\.1\.(q|k|v|proj)\.(.+)", _SWIN + r"block_2.attn.\2.\3"),
    (r"aggregator\.spatial\.(\d+)\.blocks\.0\.(fc\d)\.(.+)", _SWIN + r"block_1.mlp.\2.\3"),
    (r"aggregator\.spatial\.(\d+)\.blocks\.1\.(fc\d)\.(.+)", _SWIN + r"block_2.mlp.\2.\3"),
    (r"aggregator\.spatial\.(\d+)\.blocks\.0\.(.+)", _SWIN + r"block_1.\2"),
    (r"aggregator\.spatial\.(\d+)\.blocks\.1\.(.+)", _SWIN + r"block_2.\2"),
    (r"aggregator\.classes\.(\d+)\.(q|k|v)\.(.+)", _CLASSES + r"attention.\2.\3"),
    (r"aggregator\.classes\.(\d+)\.fc1\.(.+)", _CLASSES + r"MLP.0.\2"),
    (r"aggregator\.classes\.(\d+)\.fc2\.(.+)", _CLASSES + r"MLP.2.\2"),
    (r"aggregator\.classes\.(\d+)\.filling", _CLASSES + "padding_tokens"),
    (r"aggregator\.classes\.(\d+)\.filling_guidance", _CLASSES + "padding_guidance"),
    (r"aggregator\.classes\.(\d+)\.(.+)", _CLASSES + r"\2"),
    *(
        (rf"aggregator\.decoder\.ups\.{i}\.{own}\.(.+)", _UP.format(i + 1) + theirs + r".\1")
        for i in range(2)
        for own, theirs in UPSAMPLING
    ),
    (r"aggregator\.decoder\.(.+)", _AGGREGATOR + r"\1"),
    (r"upsample\.0\.(.+)", r"upsample1.\1"),
    (r"upsample\.1\.(.+)", r"upsample2.\1"),
    (r"clip\.model\.(.+)", _HEAD + r"clip_model.\1"),
)
"""Our names, and those of the original."""

DERIVED = (_AGGREGATOR.replace(".", r"\.") + r"layers\.\d+\.swin_block\.block_2\.attn_mask",)


def official_name(key: str) -> str:
    """Return the original's name of one of our tensors."""
    return rename(key, NAMES)


OFFICIAL = Official("CAT-Seg", _AGGREGATOR, official_name, DERIVED)
