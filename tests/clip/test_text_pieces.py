"""What each token of a text stands for, by every kind of tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import transformers

from ovseg.clip.text_pieces import of_hub
from ovseg.clip.text_tokens import TextTokens
from tests.clip.narrow_hf import LINES, TOKENIZERS


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("a cat", ["a", "cat"]),
        ("xylophone", ["xy", "lo", "phone"]),
        ("Bär", ["b", "ä", "r"]),
        ("猫", [None, None, None]),
        ("سماء", ["س", "م", None, None]),
        ("🐱", ["🐱"]),
        ("", []),
    ],
)
def test_clips_own_tokenizer(text, pieces):
    assert TextTokens({}).pieces(text) == pieces


@pytest.mark.parametrize(
    ("kind", "text", "pieces"),
    [
        ("bytes", "a cat", ["a", "cat"]),
        ("bytes", "über", ["über"]),
        ("bytes", "馬", [None, None, None]),
        ("wordpiece", "a catx", ["a", "cat", "x"]),
        ("wordpiece", "猫と馬", ["猫", "と", None]),
        ("unigram", "a cat", ["a", "cat"]),
        ("unigram", "猫と犬", ["猫", "と", "犬"]),
        ("unigram", "馬", [None]),
        ("fallback", "a cat", ["a", "cat"]),
        ("fallback", "猫と馬", ["猫", "と", None, None, None]),
    ],
)
def test_tokenizers_that_say_where_tokens_lie(kind, text, pieces):
    assert of_hub(TOKENIZERS[kind](), text) == pieces


@pytest.fixture(scope="module")
def spiece(tmp_path_factory) -> Path:
    """A model of sentencepiece, as SigLIP has; a small one is the same in every run."""
    folder = tmp_path_factory.mktemp("spiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_prefix=str(folder / "spiece"), vocab_size=90, pad_id=-1, bos_id=-1,
        eos_id=1, unk_id=2, character_coverage=0.98, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    return folder


def test_tokenizers_that_do_not_say_it(spiece):
    tokenizer = transformers.SiglipTokenizer(str(spiece / "spiece.model"))
    assert not tokenizer.is_fast
    found = of_hub(tokenizer, "a photo 鰐")
    assert found[-1] is None and None not in found[:-1] and "".join(found[:-1]) == "aphoto"


def test_siglip_reads_lower_case_without_signs(spiece):
    """Its own tokenizer does so, and the one of SigLIP 2 that stands in its place in some folders does not."""
    transformers.SiglipTokenizer(str(spiece / "spiece.model")).save_pretrained(spiece)
    tokens = TextTokens(
        {"hf_tokenizer_name": str(spiece), "context_length": 12, "tokenizer_kwargs": {"clean": "canonicalize"}}
    )
    assert tokens(["A Photo, of a CAT!"]).tolist() == tokens(["a photo of a cat"]).tolist()
    assert tokens(["a cat"]).shape == (1, 12)
