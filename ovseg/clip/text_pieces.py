"""What each token of a text stands for, by which one sees whether a tokenizer knows the script of the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

Pieces = list[str | None]
"""The part of a text that each of its tokens stands for; None for an unknown token, and for a part of a letter."""

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "▁"


def of_bytes(tokenizer: Any, ids: Sequence[int]) -> Pieces:
    """Return the pieces of tokens of open_clip's own tokenizer, which are bytes; a letter may have several."""
    found: Pieces = []
    for number in ids:
        letters = tokenizer.decoder[number].removesuffix("</w>")
        try:
            found.append(bytes(tokenizer.byte_decoder[letter] for letter in letters).decode())
        except UnicodeDecodeError:
            found.append(None)
    return found


def of_hub(tokenizer: Any, text: str) -> Pieces:
    """Return the pieces of a text by a tokenizer of transformers.

    Those that are built on ``tokenizers`` say where each token lies in the text; two on one letter are parts of it.
    """
    if not getattr(tokenizer, "is_fast", False):
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        own = [None if token == tokenizer.unk_token or _BYTE.fullmatch(token) else token for token in tokens]
        return [piece for piece in (part and part.strip(_SPACE) for part in own) if piece != ""]
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(coded["input_ids"])
    parts = list(zip(coded["input_ids"], tokens, coded["offset_mapping"], strict=True))
    shown = [(number, span) for number, token, span in parts if token.strip(_SPACE)]
    readers = [0] * (len(text) + 1)
    for _, (start, end) in shown:
        for place in range(start, end):
            readers[place] += 1
    found: Pieces = []
    for number, (start, end) in shown:
        shared = any(readers[place] > 1 for place in range(start, end))
        found.append(None if shared or number == tokenizer.unk_token_id else text[start:end].strip())
    return found
