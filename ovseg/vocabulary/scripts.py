"""Words in a script that a text tower has hardly learnt: its tokenizer does not know them, or spells them in bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ovseg.errors import VocabularyError
from ovseg.system.values import some
from ovseg.vocabulary.engineering import Recipe
from ovseg.vocabulary.names import shown

SPELLED = 0.5
"""A word counts as not known from more than this share of its tokens on. Measured with CLIP's own tokenizer: English
has 0, with accents (``crème brûlée``) up to 0.38, German up to 0.5 (``Straße``); Japanese, Chinese, Korean, Russian,
Greek, Hebrew, Arabic, Hindi and Thai have 0.75 to 1."""
_INSTEAD = "clearclip/ViT-B-16-SigLIP2/webli, clearclip/hf:BAAI/AltCLIP-m18"


@runtime_checkable
class SpellingTower(Protocol):
    """A text tower that can tell what each token of a text stands for."""

    name: str

    def pieces_of(self, texts: list[str], /) -> list[list[str | None]]:
        """Return for each text the part of it that each token stands for; None for unknown tokens and lone bytes."""

    def read_of(self, texts: list[str], /) -> list[str]:
        """Return what it reads of each text."""


def say_foreign(tower: object, recipe: Recipe) -> list[str]:
    """Return a note on words that the tokenizer of a tower knows in bytes or single letters alone, or not at all.

    Args:
        tower: A text tower; one that is no `SpellingTower` knows everything.
        recipe: The texts.

    Raises:
        VocabularyError: Of words of two classes, or of a class and the background, the same unknown token is left.
    """
    if not isinstance(tower, SpellingTower):
        return []
    found = _spelled(tower, recipe.texts)
    _check_distinct(tower, recipe, set(found))
    return _note(tower, found, recipe.texts)


def foreign_words(tower: object, texts: Sequence[str]) -> list[str]:
    """Return such a note for one of several towers, of which another may tell apart what this one cannot."""
    return _note(tower, _spelled(tower, texts), texts) if isinstance(tower, SpellingTower) else []


def _spelled(tower: SpellingTower, texts: Sequence[str]) -> dict[str, float]:
    """Return the texts that the tokenizer of a tower knows in parts alone, and the share of these."""
    distinct = list(dict.fromkeys(texts))
    shares = [share_spelled(pieces) for pieces in tower.pieces_of(distinct)]
    return {text: share for text, share in zip(distinct, shares, strict=True) if share > SPELLED}


def _note(tower: SpellingTower, found: dict[str, float], texts: Sequence[str]) -> list[str]:
    if not found:
        return []
    average = round(100 * sum(found.values()) / len(found))
    return [
        f"{tower.name} has hardly learnt {len(found)} of {len(set(texts))} texts: its tokenizer knows {average} % of "
        f"their parts as bytes, as single letters, or not at all ({some([shown(text) for text in found])}); write "
        f"them in English, or use a multilingual model such as {_INSTEAD}"
    ]


def _check_distinct(tower: SpellingTower, recipe: Recipe, foreign: set[str]) -> None:
    """Refuse foreign words of different classes, or of a class and none, of which the same is read."""
    queries = [*recipe.names, *recipe.subclasses, *recipe.extra]
    owners: dict[str, tuple[int, str]] = {}
    for text, owner in zip(queries, recipe.query_to_class, strict=False):
        if text not in foreign:
            continue
        (read,) = tower.read_of([text])
        other, name = owners.setdefault(read, (owner, text))
        if other != owner:
            raise VocabularyError(
                f"{shown(name)} and {shown(text)} become the same text: the tokenizer of {tower.name} knows neither "
                f"and reads {shown(read)}; write them in English, or use a multilingual model such as {_INSTEAD}"
            )


def share_spelled(pieces: Sequence[str | None]) -> float:
    """Return the share of tokens that stand for less than a letter, nothing known, or a lone letter beyond ASCII.

    Signs of Chinese, Japanese and Korean are words or syllables, no letters.
    """
    return sum(piece is None or (len(pieces) > 1 and _is_letter(piece)) for piece in pieces) / max(1, len(pieces))


def _is_letter(piece: str) -> bool:
    if len(piece) != 1 or piece.isascii() or unicodedata.east_asian_width(piece) in "WF":
        return False
    return unicodedata.category(piece)[0] in "LM"
