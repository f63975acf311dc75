"""Marks around names that are no part of them: quotation marks, bullets, Markdown's bold, dividers at the ends."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ovseg.errors import VocabularyError
from ovseg.vocabulary.names import shown, some

_QUOTES = {**{q: q for q in "\"'`"}, "\u201c": "\u201d", "\u2018": "\u2019", "\u201e": "\u201c", "\xab": "\xbb"}
_QUOTES |= {"\xbb": "\xab", "\u2039": "\u203a", "\u201a": "\u2018", "\u201d": "\u201d"}  # German, Swedish
_QUOTES |= {"\u300c": "\u300d", "\u300e": "\u300f"}  # corner brackets, as in Japanese
_BULLET = re.compile(r"[-*\u2022\xb7\u2023\u25e6\u25aa\u2013\u2014]\s+(?:\[[ xX]?\]\s+)?(?=\S)")
_BOLD = re.compile(r"\*\*([^*]+)\*\*|\u2019([^\u2019]+)\u2019(?!\w)")
_ENDS = ",;\u3002"


def bare(items: Sequence[tuple[str, str]], notes: list[str]) -> list[tuple[str, str]]:
    """Take marks off texts; bullets and dividers only where all have them.

    Args:
        items: Texts, and where they stand.
        notes: Gets a line for each kind of mark that was left out.

    Raises:
        VocabularyError: A quotation mark has no other.
    """
    found = [(text.strip(), where) for text, where in items]
    for end in _ENDS:
        if found and all(text.endswith(end) for text, _ in found[:-1] or found):
            notes.append(f"{end!r} at the end of the lines was left out")
            found = [(text.removesuffix(end).rstrip(), where) for text, where in found]
    if found and all(_BULLET.match(text) for text, _ in found):
        notes.append("bullets before the names were left out")
        found = [(_BULLET.sub("", text, count=1), where) for text, where in found]
    unquoted = [(_unquote(text, where), where) for text, where in found]
    if quoted := [text for (text, _), (one, _) in zip(found, unquoted, strict=True) if one != text]:
        notes.append(f"quotation marks were left out: {some(quoted)}")
    return unquoted


def _unquote(text: str, where: str) -> str:
    """Take quotation marks, or those of bold, off a text that stands in them.

    Raises:
        VocabularyError: One of a pair is missing.
    """
    if bold := _BOLD.fullmatch(text):
        return (bold[1] or bold[2]).strip()
    close = _QUOTES.get(text[:1])
    if close and len(text) > 2 and text.endswith(close) and close not in text[1:-1] and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    if len(text) > 1 and (close or text[-1] in '"`\u201d\xbb\u203a'):
        raise VocabularyError(
            f"{where} ({shown(text)}) has a quotation mark without another at the other end of the name; remove it"
        )
    return text
