"""Rules that every word (class name, synonym, background word) obeys; shared by all parsers of this package."""

from __future__ import annotations

import re
import unicodedata

from ovseg.errors import VocabularyError
from ovseg.system import values

MAX_LENGTH = 1000
# Invisible or unusable in one line of text: control characters, lone surrogates, line and paragraph separators.
# Format characters (Cf) stay legal: emoji sequences and right-to-left marks need them.
_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}
# Soft hyphen, zero-width space, word joiner, byte order mark, marks of the direction of writing, variants of emoji:
# nobody sees them, and no name means something by them.
_UNSEEN = "\u00ad\u200b\u2060\ufeff\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufe0e\ufe0f"
_ALIKE: dict[int, str | None] = dict.fromkeys(map(ord, _UNSEEN))
_ALIKE |= dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-") | dict.fromkeys(map(ord, "\u2018\u2019"), "'")
_ALIKE |= {ord("_"): " "}
_FOREIGN_ID = re.compile(r"(?:[nvasr][0-9]{8}|/[mgt]/\w+)(?!\w)")


def fold(name: str) -> str:
    """Return the form in which two names count as the same.

    Unicode NFKC (composed, full-width as ordinary characters), case folded, underscores as spaces, runs of spaces as
    one, typographic hyphens and apostrophes as plain ones, characters that nobody sees left out.
    """
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join(plain.translate(_ALIKE).split()) or plain


def spoken(name: str) -> str:
    """Return what a text tower is asked for a name: ``traffic_light`` with spaces, all others as they are.

    File formats write underscores where a name has spaces, and a text tower has never read such words.
    """
    return " ".join(name.replace("_", " ").split()) or name if "_" in name else name


def shown(value: object) -> str:
    """Return a one-line, shortened and escaped picture of a value for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"


def some(names: list[str], most: int = 3) -> str:
    """Return the first names of a list as messages show them, and how many more there are."""
    return values.some([shown(name) for name in names], most)


def clean_name(value: object, where: str) -> str:
    """Check one name and trim the whitespace around it.

    Args:
        value: What the user gave.
        where: What is being read, to begin the message with, such as ``"class 3"``.

    Raises:
        VocabularyError: Not a string, empty, too long, or with control characters or a pipe in it.
    """
    if not isinstance(value, str):
        hint = f', in quotes: "{value}"' if isinstance(value, (int, float)) else ""
        raise VocabularyError(f"{where} is {shown(value)} ({type(value).__name__}); expected a name (a string){hint}")
    name = value.strip().strip("\ufeff\u200b\u2060").strip()  # of files that were joined, of pages that were copied
    if all(unicodedata.category(c) in ("Cf", "Zs") for c in name):
        raise VocabularyError(f"{where} is empty; expected a name, give it one or remove it")
    if len(name) > MAX_LENGTH:
        raise VocabularyError(f"{where} ({shown(name)}) has {len(name)} characters; at most {MAX_LENGTH}, shorten it")
    if any(unicodedata.category(c) in _FORBIDDEN for c in name):
        raise VocabularyError(f"{where} ({shown(name)}) holds a line break or control character; remove it")
    if foreign := _FOREIGN_ID.match(name):
        raise VocabularyError(
            f"{where} ({shown(name)}) begins with {foreign[0]}, an id of WordNet or Open Images, which no model "
            "reads; leave it out, or name the columns in a first line, such as 'code,name'"
        )
    if "|" in name:
        raise VocabularyError(f"{where} ({shown(name)}) holds a '|', which separates synonyms; remove it")
    return name


def check_unique(labelled: list[tuple[str, str]]) -> None:
    """Refuse names that occur twice once case, underscores, spaces and Unicode variants are folded.

    Args:
        labelled: Pairs of a name and where it stands, such as ``("cat", "class 0")``.

    Raises:
        VocabularyError: Names every name that occurs more than once, up to five of them, and where.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    for name, where in labelled:
        places.setdefault(fold(name), []).append((name, where))
    twice = [found for found in places.values() if len(found) > 1]
    if not twice:
        return
    told = "; ".join(_places(found[:3]) for found in twice[:5])
    more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
    raise VocabularyError(
        f"duplicate names: {told}{more}; every name and synonym may stand once (case, underscores and Unicode variants "
        "make no difference), remove one of each"
    )


def _places(found: list[tuple[str, str]]) -> str:
    """Say where a name stands, and how it is written there where that differs."""
    if len({name for name, _ in found}) == 1:
        return f"{shown(found[0][0])} in {' and '.join(where for _, where in found)}"
    return " and ".join(f"{shown(name)} in {where}" for name, where in found)
