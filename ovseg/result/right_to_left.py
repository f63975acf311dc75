"""Arabic and Hebrew for drawing libraries that set one sign after the other: letters joined, order as it is seen.

Pillow does it by itself where it finds libraqm and FriBiDi; this is for machines where it does not. It covers words and
phrases, not the whole Unicode bidirectional algorithm: no explicit embeddings, no nested directions.
"""

from __future__ import annotations

import itertools
import unicodedata
from functools import lru_cache

_MIRRORED = dict(zip("()[]{}<>«»", ")(][}{><»«", strict=True))
_PRESENTATION = (range(0xFB50, 0xFE00), range(0xFE70, 0xFF00))  # Arabic letters in the forms in which they join


def visual(text: str) -> str:
    """Return the signs of a text from left to right as they are seen; without right-to-left letters the text itself."""
    if not any(unicodedata.bidirectional(char) in ("R", "AL") for char in text):
        return text
    signs = _clusters(_join(text))
    ways = [_way(sign) for sign in signs]
    base = next((way for way in ways if way), "L")
    # Signs without a way of their own, such as spaces, go with both neighbours where these agree, else with the text.
    before, after = _carried(ways, base), _carried(ways[::-1], base)[::-1]
    settled = [way or (one if one == other else base) for way, one, other in zip(ways, before, after, strict=True)]
    runs = [
        (way, [sign for sign, _ in group])
        for way, group in itertools.groupby(zip(signs, settled, strict=True), key=lambda pair: pair[1])
    ]
    shown = ["".join(run if way == "L" else [_MIRRORED.get(s, s) for s in reversed(run)]) for way, run in runs]
    return "".join(shown if base == "L" else reversed(shown))


def _way(sign: str) -> str:
    """Return L or R for signs that have a way, else nothing."""
    kind = unicodedata.bidirectional(sign[0])
    return "R" if kind in ("R", "AL") else "L" if kind in ("L", "EN", "AN") else ""


def _carried(ways: list[str], start: str) -> list[str]:
    """Give signs without a way that of the last one before them."""
    found = []
    for way in ways:
        start = way or start
        found.append(start)
    return found


def _clusters(text: str) -> list[str]:
    """Split a text into letters with their marks."""
    found: list[str] = []
    for char in text:
        if found and unicodedata.category(char) == "Mn":
            found[-1] += char
        else:
            found.append(char)
    return found


def _join(text: str) -> str:
    """Put Arabic letters into the forms (isolated, initial, medial, final) that their neighbours ask for."""
    forms = _forms()
    tokens: list[str] = []
    for char in text:
        if tokens and tokens[-1] + char in forms:  # lam and alef are one sign
            tokens[-1] += char
        else:
            tokens.append(char)
    letters = [i for i, token in enumerate(tokens) if unicodedata.category(token[0]) != "Mn"]
    joined = list(tokens)
    for last, here, following in zip([None, *letters], letters, [*letters[1:], None], strict=False):
        own = forms.get(tokens[here], {})
        from_last = last is not None and "final" in own and "initial" in forms.get(tokens[last], {})
        to_next = following is not None and "initial" in own and "final" in forms.get(tokens[following], {})
        form = ("medial" if to_next else "final") if from_last else "initial" if to_next else "isolated"
        joined[here] = own.get(form, tokens[here])
    return "".join(joined)


@lru_cache(maxsize=1)
def _forms() -> dict[str, dict[str, str]]:
    """Return the presentation forms of Arabic letters and of lam with alef, from Python's Unicode database."""
    table: dict[str, dict[str, str]] = {}
    for code in itertools.chain(*_PRESENTATION):
        form, *letters = unicodedata.decomposition(chr(code)).split() or [""]
        base = "".join(chr(int(letter, 16)) for letter in letters)
        if form in ("<isolated>", "<initial>", "<medial>", "<final>") and (len(base) == 1 or base[0] == "\u0644"):
            table.setdefault(base, {}).setdefault(form.strip("<>"), chr(code))
    return {base: forms for base, forms in table.items() if len(base) == 1 or base[1:] in "\u0622\u0623\u0625\u0627"}
