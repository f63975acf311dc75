"""A SAM of segment_anything's own parts, small enough for tests; its real constructors only differ in sizes."""

from __future__ import annotations

from functools import partial

from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn


def small_sam(checkpoint=None, side=64, depth=1, window=2, looking_at_all=()):
    """Build it with random weights; ``checkpoint`` is what the constructors of the registry are given."""
    encoder = ImageEncoderViT(
        img_size=side,
        patch_size=16,
        embed_dim=16,
        depth=depth,
        num_heads=2,
        out_chans=32,
        qkv_bias=True,
        use_rel_pos=True,
        window_size=window,
        global_attn_indexes=looking_at_all,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    prompts = PromptEncoder(32, (side // 16,) * 2, (side, side), mask_in_chans=4)
    transformer = TwoWayTransformer(depth=1, embedding_dim=32, num_heads=2, mlp_dim=32)
    decoder = MaskDecoder(transformer_dim=32, transformer=transformer, iou_head_hidden_dim=32)
    return Sam(encoder, prompts, decoder).eval()
