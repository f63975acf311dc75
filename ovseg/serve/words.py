"""Words as they come from a page. They are never taken for the name of a file: whoever types them has none here."""

from __future__ import annotations

from dataclasses import replace

from ovseg.errors import VocabularyError
from ovseg.serve.limits import Limits
from ovseg.vocabulary import Background, Vocabulary, parse_background
from ovseg.vocabulary.pasted import check_lone, split_text
from ovseg.vocabulary.preset_files import find_preset

_DIVIDERS = ",|\n\r"
"""With one of these in it a text is never looked up as a file; see docs/words.md."""
_POLICIES = ("none", "words")


def typed_vocabulary(text: str, limits: Limits) -> Vocabulary:
    """Read a text as `Vocabulary.parse` does, but for the names of files, which are ordinary words here.

    Args:
        text: Names with commas between them, synonyms with ``|``, a pasted list, or the name of a preset.
        limits: How long it may be.

    Raises:
        InputError: It is longer.
        VocabularyError: The words cannot be used.
        UnknownNameError: A lone word that resembles a preset but is none.
    """
    limits.check_text(text)
    text = text.strip()
    if not text:
        raise VocabularyError("there are no words; type some, such as 'cat|kitten, sofa'")
    found = _parse(text)
    limits.check_words(sum(len(entry.names) for entry in found))
    return found


def _parse(text: str) -> Vocabulary:
    if any(divider in text for divider in _DIVIDERS):
        return Vocabulary.parse(text)
    if preset := find_preset(text):
        found = Vocabulary.parse(preset)  # whose ids are places in the list, and no ids that a user has given
        return Vocabulary(tuple(replace(entry, id=None) for entry in found))
    notes: list[str] = []
    entries = split_text(text, notes)
    if entries is None:
        check_lone(text, notes)
    found = Vocabulary.parse([text] if entries is None else entries)
    return replace(found, notes=(*notes, *found.notes))


def typed_background(text: str, limits: Limits) -> Background | None:
    """Read a background policy, or words of the user's own; empty is the model's own policy.

    Raises:
        InputError: The text is too long.
        VocabularyError: The policy or a word cannot be used.
    """
    limits.check_text(text)
    text = text.strip()
    if not text:
        return None
    if text in _POLICIES or text.startswith("threshold:"):
        return parse_background(text)
    words = typed_vocabulary(text.removeprefix("words:"), limits)
    return parse_background([name for entry in words for name in entry.names])
