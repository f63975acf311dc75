"""How the released checkpoints of FC-CLIP and MAFT+ name the mask head that they share."""

from __future__ import annotations

_PIXEL = "sem_seg_head.pixel_decoder."
_ENCODER = _PIXEL + r"transformer.encoder.layers.\1"
DECODER = "sem_seg_head.predictor."
ADAPTER = "mask_adapter."
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
    (r"decoder\.layers\.(\d+)\.cross\.(.+)", DECODER + r"transformer_cross_attention_layers.\1.multihead_attn.\2"),
    (r"decoder\.layers\.(\d+)\.cross_norm\.(.+)", DECODER + r"transformer_cross_attention_layers.\1.norm.\2"),
    (r"decoder\.layers\.(\d+)\.own\.(.+)", DECODER + r"transformer_self_attention_layers.\1.self_attn.\2"),
    (r"decoder\.layers\.(\d+)\.own_norm\.(.+)", DECODER + r"transformer_self_attention_layers.\1.norm.\2"),
    (r"decoder\.layers\.(\d+)\.(.+)", DECODER + r"transformer_ffn_layers.\1.\2"),
    (r"decoder\.pool_proj\.(.+)", DECODER + r"_mask_pooling_proj.\1"),
    (r"decoder\.log_scale", DECODER + "logit_scale"),
    (r"decoder\.(.+)", DECODER + r"\1"),
    (r"void\.(.+)", r"void_embedding.\1"),
    (r"adapter\.reading\.(.+)", ADAPTER + r"mask_downscaling.\1"),
    *(
        (rf"adapter\.blocks\.{index}\.{ours}(.*)", f"{ADAPTER}cnext{index + 1}.{original}" + r"\1")
        for index in range(3)
        for ours, original in (("conv_dw", "dwconv"), ("mlp.fc1", "pwconv1"), ("mlp.fc2", "pwconv2"), ("", ""))
    ),
    (r"adapter\.(.+)", ADAPTER + r"\1"),
)
"""Our names of the trained parts, and those of the original; MAFT+ and Mask-Adapter have the same."""

CLIP = ((r"clip\.model\.(.+)", r"backbone.clip_model.\1"),)
# Class weights of the loss for the classes of the training, and masks and constants that older files store.
DERIVED = (r"criterion\.empty_weight", r"backbone\.clip_model\.attn_mask", "pixel_mean", "pixel_std")
