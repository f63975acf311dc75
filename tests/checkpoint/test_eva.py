"""Tests of the names that EVA-CLIP's authors give."""

import torch

from ovseg.checkpoint import clip_files, eva


def test_names_become_those_of_open_clip_and_rotary_tables_are_left_out():
    block = "visual.blocks.1."
    parts = ("attn.q_bias", "attn.inner_attn_ln.weight", "mlp.w1.weight", "mlp.w3.bias", "attn.rope.freqs_cos")
    state = {f"{block}{part}": torch.ones(1) for part in parts}
    state |= {"visual.rope.freqs_sin": torch.ones(1), "text.token_embedding.weight": torch.ones(1)}
    found = clip_files.recognise(state, "file.pt")
    assert found.layout == eva.EVA
    own = "visual.trunk.blocks.1."
    assert set(found.tensors) == {
        f"{own}attn.q_proj.bias",
        f"{own}attn.norm.weight",
        f"{own}mlp.fc1_g.weight",
        f"{own}mlp.fc2.bias",
        "text.token_embedding.weight",
    }


def test_other_layouts_are_not_taken_for_it():
    assert not eva.is_eva({"visual.blocks.0.attn.q_bias": torch.ones(1)})
