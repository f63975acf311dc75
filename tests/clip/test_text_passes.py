"""Texts go through towers in passes that skip what is not needed; their rows are those of open_clip's own way."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import open_clip
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from ovseg.clip import text_prefixes
from ovseg.clip.text_passes import passes
from ovseg.clip.text_prefixes import CausalText, sort, tree_of
from ovseg.vocabulary.templates import TEMPLATES, fill

VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3}
TEXTS = ["", "!", "! !", "a", "a cat", "a photo of a cat.", "a photo of a catamaran.", "a photo", "word " * 40, "a cat"]


def build(kind: str) -> Any:
    """Build a tiny model of random weights, large enough that a wrong place of a token shows."""
    torch.manual_seed(0)
    text: dict[str, Any] = dict(TEXT)
    if kind.startswith("coca"):
        text |= {"embed_cls": True, "output_tokens": True}
        decoder = {"width": 32, "context_length": 20, "vocab_size": 49408, "heads": 2, "layers": 1, "mlp_ratio": 2.0}
        pooler = {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True}
        model = open_clip.CoCa(24, multimodal_cfg=decoder, text_cfg=text, vision_cfg=VISION | pooler)
        model.text.correct_cls_mask = kind == "coca, mended mask"
    elif kind == "clip":
        model = open_clip.CLIP(24, VISION, text, quick_gelu=True)
    else:
        changes = {
            "eos": {"pool_type": "eos", "eos_id": 49407},
            "bias": {"proj_bias": True},
            "no projection": {"proj_type": "none", "width": 24},
            "argmax": {},
            "scaled": {"ls_init_value": 0.3, "block_type": "custom", "scale_attn": True, "qk_norm": True},
            "last": {"no_causal_mask": True, "pool_type": "last"},
            "causal, last": {"pool_type": "last"},
        }[kind]
        model = open_clip.CustomTextCLIP(24, VISION, text | changes)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    return model.eval().requires_grad_(False)


KINDS = ("clip", "argmax", "eos", "bias", "no projection", "scaled", "coca", "coca, mended mask")
WHOLE = ("last", "causal, last")


def embed(model: Any, tokens: Tensor) -> Tensor:
    """Run all passes; every text is in one of them."""
    rows, seen = {}, []
    for places, run in passes(model, tokens):
        seen += places.tolist()
        rows.update(zip(places.tolist(), run(), strict=True))
    assert sorted(seen) == list(range(len(tokens)))
    return torch.stack([rows[place] for place in range(len(tokens))])


@pytest.mark.parametrize("kind", [*KINDS, *WHOLE])
def test_rows_are_those_of_the_original(kind: str) -> None:
    model = build(kind)
    assert (CausalText.of(model) is None) == (kind in WHOLE)
    tokens = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
    expected = model.encode_text(tokens, normalize=False)
    assert torch.allclose(embed(model, tokens), expected, atol=1e-5, rtol=1e-5)
    assert (expected[4] - expected[5]).abs().max() > 1e-2  # the comparison can fail


@pytest.mark.parametrize("kind", KINDS)
def test_small_passes_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(kind)
    tokens = open_clip.SimpleTokenizer(context_length=20)(TEXTS)
    monkeypatch.setattr(text_prefixes, "TOKENS_PER_PASS", 30)
    assert sum(1 for _ in passes(model, tokens)) > 3
    assert torch.allclose(embed(model, tokens), model.encode_text(tokens, normalize=False), atol=1e-5, rtol=1e-5)


def test_half_precision_and_words_in_every_template() -> None:
    model = build("clip").to(torch.bfloat16)
    prompts = [fill(template, word) for word in ("cat", "dining table") for template in TEMPLATES["openai80"]]
    tokens = open_clip.SimpleTokenizer(context_length=20)(prompts)
    found, expected = embed(model, tokens), model.encode_text(tokens)
    assert found.dtype == torch.bfloat16
    assert torch.cosine_similarity(found.float(), expected.float()).min() > 0.999


def test_what_texts_begin_with_is_computed_once() -> None:
    model = build("clip")
    prompts = [f"a photo of a {word}." for word in ("cat", "dog", "sheep", "horse")]
    tokens = open_clip.SimpleTokenizer(context_length=20)(prompts)
    counted = []
    block = model.transformer.resblocks[0].mlp.c_fc
    handle = block.register_forward_pre_hook(lambda _, given: counted.append(given[0].shape[:-1].numel()))
    embed(model, tokens)
    handle.remove()
    assert counted == [5 + 4 * 3]  # start, a, photo, of, a; then each word, the point and the end


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_tree(lists: list[list[int]]) -> None:
    """Every path spells its sequence, and no two nodes have the same prefix."""
    table = torch.full((len(lists), 6), -1)
    for row, own in zip(table, lists, strict=True):
        row[: len(own)] = torch.tensor(own)
    table = table[sort(table)]
    tree = tree_of(table)
    prefixes = [tuple(table[row, : place + 1].tolist()) for row, place in tree.nodes.tolist()]
    expected = {tuple(own[:end]) for own in lists for end in range(1, len(own) + 1)}
    assert len(set(prefixes)) == len(prefixes) == len(expected)
    for row, path in zip(table.tolist(), tree.paths.tolist(), strict=True):
        length = sum(token >= 0 for token in row)
        assert [prefixes[node] for node in path[:length]] == [tuple(row[: end + 1]) for end in range(length)]
