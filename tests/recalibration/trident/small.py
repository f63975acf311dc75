"""A small SAM, models with it, and photographs."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration.trident import Trident

FOUR = ["cat", "sofa", "tree", "river"]
SIDE = 128


def tiny_sam(checkpoint=None):
    encoder = ImageEncoderViT(
        img_size=SIDE,
        patch_size=16,
        embed_dim=16,
        depth=2,
        num_heads=2,
        out_chans=32,
        qkv_bias=True,
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1,),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    prompts = PromptEncoder(32, (SIDE // 16,) * 2, (SIDE, SIDE), mask_in_chans=4)
    two = TwoWayTransformer(depth=1, embedding_dim=32, num_heads=2, mlp_dim=32)
    return Sam(encoder, prompts, MaskDecoder(transformer_dim=32, transformer=two, iou_head_hidden_dim=32)).eval()


def build(clip, windows=(32, 16), **options):
    method = Trident(windows=windows, **options)
    view = SizeRule(48, 96, minimum=8)
    return TrainingFree(
        clip=clip,
        recalibration=method,
        size_rule=SizeRule(48, 96, "photo") if method.sees_photo else view,
        protocol=Protocol(0, 0, "none"),
        rule=ScoreRule(20.0),
        templates="none",
        background="none",
        view=view if method.sees_photo else None,
    ).eval()


def photo(height=70, width=90, seed=0):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (1, 3, 4, 5), generator=generator).float()
    return F.interpolate(coarse, (height, width))[0].byte()


def answers_of(models, words_of, height=70, width=90, background="none"):
    found = []
    for model in models:
        words = model.words(words_of, background=background)
        encoded = model.encode([photo(height, width)])
        found.append(model.answer(encoded, 0, (height, width), words, LABELS | {CLASS_SCORES}))
    return found
