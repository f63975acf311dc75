"""From one text to its entries: commas, lines, brackets of a pasted list, and what other tools divide words by."""

from __future__ import annotations

import ast
import io
import itertools
import json
import re
import tokenize
from typing import Any

from ovseg.errors import VocabularyError
from ovseg.vocabulary.entries import COMMAS, find_divider
from ovseg.vocabulary.names import shown

_COMMAS = re.compile(f"[{COMMAS[1:]}]")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_ASSIGNED = re.compile(r"^\w+\s*[=:]\s*(?=[\[({])")
_DOT = re.compile(r"\s*(?:\.+(?:\s+|$)|[\u3002\uff61]\s*)")
_SHORT = re.compile(r"\b(?:dr|jr|mr|mrs|ms|mt|no|prof|sr|st|vs)\.\s+\S", re.IGNORECASE)
# Marks that stand between words elsewhere.
_BETWEEN = r"[/\uff0f]|\s(?:[&+\u2013\u2014-]|[-=]*>)\s|[\xb7\u2022\u30fb\uff65\u3002]|:(?=\s*[^\W\d])"
_JOINERS = re.compile(rf"{_BETWEEN}|\.(?=\s|\S*[^\W\d])")
_AND = re.compile(r"\s+(?:and|or|&)\s+|(?<=[\u3040-\u9fff])\s+(?=[\u3040-\u9fff])")
_AND_SO_ON = re.compile(r".*(?:\.\.|\u2026)|etc\.?", re.IGNORECASE)
_MARKUP = re.compile(r"<[^>]*>.*</", re.DOTALL)
_HEADING = re.compile(r"(?:names?|class(?:es)?|labels?|categories)\s*[:=]", re.IGNORECASE)


def split_text(text: str, notes: list[str]) -> Any:
    """Split a text that is clearly a list.

    Args:
        text: Without whitespace around it.
        notes: Gets a line that says what was read as something else than it says.

    Returns:
        Entries; what a pasted list or dict holds; a text of several lines as it is; None for a lone word, which may
        hold synonyms.

    Raises:
        VocabularyError: Brackets or quotation marks do not pair up.
    """
    found = unpack(text, notes)
    if found is not None:
        return found
    if _MARKUP.match(text):
        raise VocabularyError(f"{shown(text)} is XML or HTML; write its names with commas between them")
    if "\n" in text or "\r" in text:
        return text
    if comma := _COMMAS.search(text):
        notes.append(f"{comma[0]!r} was read as a comma between classes")
        text = _COMMAS.sub(",", text)
    if heading := _HEADING.match(text):
        raise VocabularyError(f"{shown(text)} begins with {heading[0]!r}, which is no class; leave it out")
    if "," not in text:
        return _split_dots(text, notes)
    if re.search(r"[^\s.]\.$", text) and text.count(".") == 1:
        notes.append(f"the dot at the end was left out: {shown(text)}")
        text = text[:-1]
    return _ended(split_commas(text), notes) if not text.endswith(",") else split_commas(text)


def split_commas(text: str) -> list[str]:
    """Split at commas; one comma at the end is allowed."""
    words = text.split(",")
    if len(words) > 1 and not words[-1].strip():
        words.pop()
    return words


def _ended(words: list[str], notes: list[str]) -> list[str]:
    """Look at the end of a list, which in a sentence has an "and" before it, or an "and so on" for it.

    Raises:
        VocabularyError: It goes on with names that are not there.
    """
    last = words[-1].strip()
    if _AND_SO_ON.fullmatch(last):
        raise VocabularyError(f"the list ends with {shown(last)}, which is no class; write all names, and leave it out")
    if before := re.match(r"(?:and|or|&)\s+(?=\S)", last):
        notes.append(f"{before[0].strip()!r} before the last name was left out: {shown(last)}")
        return [*words[:-1], last[before.end() :]]
    _say_joined(last, notes)
    return words


def _say_joined(word: str, notes: list[str]) -> None:
    """Note a name that reads like two, and no longer phrase."""
    if len(both := _AND.split(word)) > 1 and all(len(part.split()) <= 3 for part in both):
        notes.append(f"{shown(word)} was read as one class; for several write {shown(', '.join(both))}")


def check_lone(word: str, notes: list[str]) -> None:
    """Refuse a lone word that may be several; note one that reads like two.

    Raises:
        VocabularyError: Something in it stands between words elsewhere.
    """
    if find_divider(word) or re.match(r"[0-9]+\s*[:=]", word):
        return  # read as what it is, or refused for that
    if joined := _JOINERS.search(word):
        parts = [part.strip() for part in re.split(rf"{_BETWEEN}|\.\s+", word)]
        parts = [part for part in (parts if len(parts) > 1 else word.split(".")) if part]
        raise VocabularyError(
            f"{shown(word)} has {joined[0].strip()!r} in it, and there is no file of this name; write "
            f"{shown(', '.join(parts))} for several classes, or {shown(word + ',')} for one of this name"
        )
    _say_joined(word, notes)


def unpack(text: str, notes: list[str]) -> Any:
    """Read what a list or dict in brackets holds, as JSON or Python writes it, or bare words; no code is run.

    Returns:
        A list or a dict; None where the text is not in brackets.

    Raises:
        VocabularyError: It is in brackets and cannot be read.
    """
    inner = _ASSIGNED.sub("", text).rstrip(",;").rstrip()
    if len(inner) < 2 or _BRACKETS.get(inner[0]) != inner[-1]:
        return None
    try:
        found = read_json(inner)
    except ValueError:
        found = _read_python(inner)
    if found is None and not re.search(r"[\[\]{}()\"'`:]", inner[1:-1]) and inner[1:-1].strip():
        found = split_commas(_COMMAS.sub(",", inner[1:-1]))
    if found is None and (inner[0] == "(" or not _encloses(inner)):
        return None  # "[red], [blue]", "(cat) and (dog)": ordinary characters
    if not isinstance(found, (list, dict)):
        raise VocabularyError(
            f'{shown(text)} is in brackets but no list that can be read; write \'cat, dog\', or ["cat", "dog"] with a '
            "comma between every two names"
        )
    notes.append("brackets and quotation marks of a pasted list were left out")
    return found


def _encloses(text: str) -> bool:
    """Return whether the bracket at the start of a text is closed by the one at its end, and not before."""
    depth = 0
    for place, sign in enumerate(text, 1):
        depth += (sign == text[0]) - (sign == text[-1])
        if depth == 0:
            return place == len(text)
    return False


def read_json(text: str) -> Any:
    """Read JSON; a key that stands twice is an error, where it would replace the first in silence.

    Raises:
        ValueError: It is no JSON, or a key stands twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError as error:
        raise ValueError("lists are nested too deeply") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise VocabularyError(
            f"the key {shown(twice)} stands twice in one JSON object; every class has its own, mend it"
        )
    return found


def _read_python(text: str) -> list[Any] | dict[Any, Any] | None:
    """Read a literal of Python; None where it is none."""
    if text[0] == "{":  # a set in the order in which it is written
        whole = _literal(text)
        return whole if isinstance(whole, dict) else _as_list(_literal(f"[{text[1:-1]}]"))
    return _as_list(_literal(text))


def _as_list(value: Any) -> list[Any] | None:
    return list(value) if isinstance(value, (list, tuple)) else [value] if isinstance(value, str) else None


def _literal(text: str) -> Any:
    try:
        kinds = [
            token.type
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type not in (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)
        ]
        # Python joins 'cat' 'dog' to one text; a comma is missing there.
        if any(a == b == tokenize.STRING for a, b in itertools.pairwise(kinds)):
            return None
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        return None


def _split_dots(text: str, notes: list[str]) -> list[str] | None:
    """Split words with dots behind them, as GroundingDINO takes them; None where the dots may mean something else."""
    ended = text[-1] in ".\u3002\uff61"
    if not (re.search(r"\s\.\s", text) or ended) or not text.strip(" .\u3002\uff61"):
        return None
    words = [word for word in _DOT.split(text) if word.strip()]
    if len(words) == 1:
        check_lone(text if ended and "." in words[0] else words[0], notes)
    elif short := _SHORT.search(text):
        raise VocabularyError(
            f"{shown(text)} has a dot between classes, or in a name with {shown(short[0][:-2].strip())}; write commas "
            "between classes"
        )
    notes.append(f"dots were read as between classes: {shown(text)}")
    return words
