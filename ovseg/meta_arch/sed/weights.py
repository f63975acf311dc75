"""How the released checkpoints of SED (github.com/xb534/SED) name what we do."""

from __future__ import annotations

from ovseg.aggregation.upsampling import OFFICIAL as UPSAMPLING
from ovseg.checkpoint.loading import Official
from ovseg.checkpoint.strict import rename

_HEAD = "sem_seg_head.predictor."
_DECODER = f"{_HEAD}transformer."
_CLASSES = (("q", "attention.q"), ("k", "attention.k"), ("v", "attention.v"), ("fc1", "MLP.0"), ("fc2", "MLP.2"))
NAMES = (
    (r"decoder\.embed\.(.+)", _DECODER + r"conv1.\1"),
    (r"decoder\.guides\.(\d)\.(.+)", _DECODER + r"decoder_guidance_projection.\1.0.\2"),
    (r"decoder\.cost_guides\.(\d)\.(.+)", _DECODER + r"decoder_corr_guidance_projection.\1.0.\2"),
    (r"decoder\.guide_texts\.(\d)\.(.+)", _DECODER + r"text_guidance_projection.\1.0.\2"),
    *(
        (rf"decoder\.stages\.{i}\.{ours}\.(.+)", rf"{_DECODER}decoder{i + 1}.{theirs}.\1")
        for i in range(3)
        for ours, theirs in (
            *((rf"classes\.{own}", f"attention.{name}") for own, name in _CLASSES),
            ("classes", "attention"),
            *((rf"up\.{own}", name) for own, name in UPSAMPLING),
            ("cnext", "cnext"),
        )
    ),
    (r"decoder\.early\.(\d)\.(.+)", _DECODER + r"head\1.\2"),
    (r"decoder\.head\.(.+)", _DECODER + r"head.\1"),
    (r"clip\.model\.(.+)", _HEAD + r"clip_model.\1"),
)
"""Our names, and those of the original."""

DERIVED = (r"sem_seg_head\.predictor\.clip_model\.attn_mask",)


def official_name(key: str) -> str:
    """Return the original's name of one of our tensors."""
    return rename(key, NAMES)


OFFICIAL = Official("SED", _DECODER, official_name, DERIVED)
