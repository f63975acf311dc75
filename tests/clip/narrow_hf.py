"""Small random models of transformers with tokenizers of a few words, saved as transformers saves them.

The trainers of tokenizers order what is equally frequent by chance, so the vocabularies are written down here.
"""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

LINES = [
    *(
        "a photo of a cat",
        "a photo of a dog",
        "the sky over a house",
        "grass, trees and a road",
        "a coffee cup on a table",
    ),
    *("eine Katze und ein Hund", "der Himmel über der Straße", "grüne Bäume", "ein Bär"),
    *("猫と犬", "青い空の写真", "木と道", "猫", "犬", "空", "木", "道"),
    *("一只猫和一只狗", "天空", "树木", "道路"),
    *("кошка и собака", "небо над домом", "дерево"),
]
WIDTH = 32
VISION = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "image_size": 64, "patch_size": 16}
TEXT = {"hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
KINDS = {
    "clip": ("CLIPModel", "bytes", 24),
    "metaclip_2": ("MetaClip2Model", "unigram", 24),
    "altclip": ("AltCLIPModel", "unigram", 40),
    "chinese_clip": ("ChineseCLIPModel", "wordpiece", 40),
    "siglip": ("SiglipModel", "unigram_siglip", 16),
    "siglip2": ("Siglip2Model", "fallback", 16),
}
"""Class, tokenizer and number of places of texts, by model_type."""


def words_of(lines: Sequence[str]) -> list[str]:
    """Return the words of lines: each sign of Chinese and Japanese is one."""
    return sorted({word for line in lines for word in re.findall(r"[\u3040-\u9fff]|[^\W\u3040-\u9fff]+|[^\w\s]", line)})


def letters_of(words: Sequence[str]) -> list[str]:
    """Return all letters of words and of plain English."""
    return sorted({*string.ascii_letters, *string.digits, *string.punctuation, *"".join(words)})


def byte_tokenizer(lines: Sequence[str] = LINES) -> PreTrainedTokenizerFast:
    """Return a BPE of bytes with ends of words, as CLIP's, that knows the words of lines."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in words_of([line.lower() for line in lines]):
        (coded,) = (part for part, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(word))
        signs = [*coded[:-1], f"{coded[-1]}</w>"]
        for place in range(1, len(signs)):
            merges["".join(signs[:place]), signs[place]] = None
    special = ["<|startoftext|>", "<|endoftext|>"]
    tokens = [*special, *alphabet, *(f"{sign}</w>" for sign in alphabet), *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    own = Tokenizer(models.BPE(vocabulary, list(merges), end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    own.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    own.decoder = decoders.ByteLevel()
    own.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    )
    ends = {"bos_token": special[0], "eos_token": special[1], "pad_token": special[1], "unk_token": special[1]}
    return PreTrainedTokenizerFast(tokenizer_object=own, model_input_names=["input_ids", "attention_mask"], **ends)


def wordpiece_tokenizer(lines: Sequence[str] = LINES) -> PreTrainedTokenizerFast:
    """Return a WordPiece, as BERT's, that knows the words of lines and English letters."""
    normal = normalizers.BertNormalizer(lowercase=True)
    words = words_of([normal.normalize_str(line) for line in lines])
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*string.ascii_lowercase, *string.digits]
    tokens = dict.fromkeys([*special, *words, *letters, *(f"##{letter}" for letter in letters)])
    own = Tokenizer(models.WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    own.normalizer, own.pre_tokenizer = normal, pre_tokenizers.BertPreTokenizer()
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def unigram_tokenizer(lines: Sequence[str] = LINES, start: bool = True) -> PreTrainedTokenizerFast:
    """Return a unigram model over a metaspace, as XLM-R's, of the words and letters of lines; SigLIP has no start."""
    words, special = words_of(lines), ["<s>", "<pad>", "</s>", "<unk>"]
    likely = {**dict.fromkeys(letters_of(words), -9.0), "▁": -6.0, **{f"▁{word}": -4.0 for word in words}}
    signs = {word: -5.0 for word in words if unicodedata.east_asian_width(word[0]) == "W"}
    own = Tokenizer(models.Unigram([*((token, 0.0) for token in special), *(likely | signs).items()], unk_id=3))
    own.normalizer, own.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    own.decoder = decoders.Metaspace()
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def fallback_tokenizer(lines: Sequence[str] = LINES) -> PreTrainedTokenizerFast:
    """Return a BPE that writes what it does not know in bytes, as Gemma's."""
    merges: dict[tuple[str, str], None] = {}
    words = words_of([line.lower() for line in lines])
    for word in words:
        for place in range(1, len(word)):
            merges[word[:place], word[place]] = None
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    tokens = [*special, *(f"<0x{number:02X}>" for number in range(256)), "▁", *letters_of(words)]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys([*tokens, *("".join(p) for p in merges)]))}
    own = Tokenizer(models.BPE(vocabulary, list(merges), unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    own.normalizer = normalizers.Replace(" ", "▁")
    own.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    own.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "wordpiece": wordpiece_tokenizer,
    "unigram": unigram_tokenizer,
    "unigram_siglip": lambda: unigram_tokenizer(start=False),
    "fallback": fallback_tokenizer,
}


def model_of(kind: str, blocks: int = 2, vision: dict[str, Any] | None = None, **text: Any) -> tuple[Any, Any]:
    """Return a random model of transformers and its tokenizer; all weights matter.

    Args:
        kind: Its ``model_type``.
        blocks: Of the image tower.
        vision: What is changed in the config of the image tower.
        text: What is changed in that of the text tower.
    """
    name, words, places = KINDS[kind]
    tokenizer = TOKENIZERS[words]()
    own_vision = {**VISION, "num_hidden_layers": blocks, **(vision or {})}
    own_text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": places}
    own_text |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    if kind == "altclip":
        own_text |= {"project_dim": 24}
    if kind == "siglip2":
        own_vision |= {"num_patches": 16}
        own_vision.pop("image_size")
    shared = {} if kind.startswith("siglip") else {"projection_dim": 16}
    model_class = getattr(transformers, name)
    config = model_class.config_class(vision_config=own_vision, text_config={**own_text, **text}, **shared)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config).eval().requires_grad_(False)
        for value in model.parameters():
            value.data += 0.1 * torch.randn_like(value)
    return model, tokenizer


def save(folder: Path, model: Any, tokenizer: Any, limit: int | None = None, **images: Any) -> Path:
    """Save a model, its tokenizer and, where ``images`` say something, how its images are normalised."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if limit:
        tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)
    if images:
        (folder / "preprocessor_config.json").write_text(json.dumps(images), encoding="utf-8")
    return folder


def save_text_tower(folder: Path, kind: str) -> Path:
    """Save config and tokenizer of a text tower that open_clip takes of transformers, ``xlm-roberta`` or ``mt5``."""
    tokenizer = unigram_tokenizer(start=kind == "xlm-roberta")
    shared = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    if kind == "mt5":
        own = {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 4}
        config: Any = transformers.MT5Config(**own, **shared, decoder_start_token_id=tokenizer.pad_token_id)
    else:
        config = transformers.XLMRobertaConfig(**TEXT, **shared, max_position_embeddings=82)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def image_features(model: Any, images: torch.Tensor, extra: int = 3) -> torch.Tensor:
    """Embed images (B, 3, H, W) as a model of transformers does by itself: (B, D).

    NaFlex gets patches in rows, behind them so many that are no part of the image.
    """
    if model.config.model_type != "siglip2":
        resized = images.shape[2:] != (64, 64)
        return _pooled(model.get_image_features(images, interpolate_pos_encoding=resized))
    size, count = model.config.vision_config.patch_size, len(images)
    rows, columns = (side // size for side in images.shape[2:])
    cut = images.reshape(count, 3, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    padded = torch.cat([cut, torch.ones(count, extra, cut.shape[2])], 1)
    mask = torch.cat([torch.ones(count, rows * columns), torch.zeros(count, extra)], 1).long()
    shapes = torch.tensor([[rows, columns]] * count)
    return _pooled(model.get_image_features(padded, mask, shapes))


def text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Embed tokens (N, n) as a model of transformers does by itself: (N, D)."""
    kind, padding = model.config.model_type, model.config.text_config.pad_token_id
    mask = {"attention_mask": (tokens != padding).long()} if kind in ("altclip", "chinese_clip") else {}
    return _pooled(model.get_text_features(tokens, **mask))


def _pooled(found: Any) -> torch.Tensor:
    rows: torch.Tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
    return rows
