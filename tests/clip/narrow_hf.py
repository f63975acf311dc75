"""Small random models of transformers with tokenizers trained here, saved as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

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


def byte_tokenizer(lines: list[str] = LINES) -> transformers.PreTrainedTokenizerFast:
    """Return a BPE of bytes with ends of words, as CLIP's."""
    own = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    own.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    own.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
    )
    own.train_from_iterator(lines, trainer)
    own.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 0), ("<|endoftext|>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        model_input_names=["input_ids", "attention_mask"],
    )


def wordpiece_tokenizer(lines: list[str] = LINES) -> transformers.PreTrainedTokenizerFast:
    """Return a WordPiece, as BERT's."""
    own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer(lowercase=True)
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    own.train_from_iterator(lines, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def unigram_tokenizer(lines: list[str] = LINES, start: bool = True) -> transformers.PreTrainedTokenizerFast:
    """Return a unigram model over a metaspace, as XLM-R's; without a start as SigLIP's."""
    own = Tokenizer(models.Unigram())
    own.normalizer = normalizers.NFKC()
    own.pre_tokenizer = pre_tokenizers.Metaspace()
    own.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    own.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>"))
    own.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if start else "$A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def fallback_tokenizer(lines: list[str] = LINES) -> transformers.PreTrainedTokenizerFast:
    """Return a BPE that writes what it does not know in bytes, as Gemma's."""
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    own = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    own.normalizer = normalizers.Replace(" ", "▁")
    own.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    own.train_from_iterator(
        [line.replace(" ", "▁") for line in lines],
        trainers.BpeTrainer(vocab_size=700, special_tokens=[*special, *bytes_]),
    )
    own = Tokenizer.from_str(_plain_bytes(own.to_str(), bytes_))
    own.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=own, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def _plain_bytes(text: str, bytes_: list[str]) -> str:
    """Make the bytes ordinary tokens: the trainer knows only special ones that are not in the text."""
    found = json.loads(text)
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] not in bytes_]
    return json.dumps(found)


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
        found: torch.Tensor = model.get_image_features(images, interpolate_pos_encoding=resized).pooler_output
        return found
    size, count = model.config.vision_config.patch_size, len(images)
    rows, columns = (side // size for side in images.shape[2:])
    cut = images.reshape(count, 3, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    padded = torch.cat([cut, torch.ones(count, extra, cut.shape[2])], 1)
    mask = torch.cat([torch.ones(count, rows * columns), torch.zeros(count, extra)], 1).long()
    shapes = torch.tensor([[rows, columns]] * count)
    naflex: torch.Tensor = model.get_image_features(padded, mask, shapes).pooler_output
    return naflex


def text_features(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Embed tokens (N, n) as a model of transformers does by itself: (N, D)."""
    kind, padding = model.config.model_type, model.config.text_config.pad_token_id
    mask = {"attention_mask": (tokens != padding).long()} if kind in ("altclip", "chinese_clip") else {}
    found: torch.Tensor = model.get_text_features(tokens, **mask).pooler_output
    return found
