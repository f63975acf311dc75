"""Texts that are longer than a text tower reads: what is cut is said, and words that become one by it are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ovseg.errors import ConfigError, VocabularyError
from ovseg.vocabulary.engineering import Recipe
from ovseg.vocabulary.names import shown
from ovseg.vocabulary.templates import TEMPLATES, fill

_SLACK = 4  # tokens by which a filled template may have more than its parts
_MOST_SHOWN = 3


@runtime_checkable
class LimitedTower(Protocol):
    """A text tower that reads a number of tokens, and can tell."""

    @property
    def text_limit(self) -> int:
        """Tokens that it reads of a text, those around it included."""

    def count_tokens(self, texts: list[str], /) -> list[int]:
        """Return how many each text has."""

    def read_of(self, texts: list[str], /) -> list[str]:
        """Return what it reads of each text."""

    def long_text(self, texts: list[str], /) -> Tensor:
        """Embed texts of any length: (N, D), any length, dtype and device."""


class _Long(NamedTuple):
    """A text in the template in which it is longest, its tokens, and what of it is read."""

    text: str
    prompt: str
    tokens: int
    read: str


def say_long(tower: object, recipe: Recipe, templates: Sequence[str], long_text: bool) -> list[str]:
    """Return notes on texts that are longer than the tower reads.

    Args:
        tower: A text tower; one that is no `LimitedTower` reads everything.
        recipe: The texts.
        templates: The sentences they are put into.
        long_text: Whether windows are read, so that nothing is cut.

    Raises:
        VocabularyError: Queries of two classes become the same text.
        ConfigError: Windows are asked for, and the tower knows none.
    """
    if not isinstance(tower, LimitedTower):
        if long_text:
            raise ConfigError("long_text needs a text tower that tells how many tokens it reads; leave it out")
        return []
    sentences = [sentence for group in recipe.sentences for sentence in group]
    found = [*_find(tower, recipe.texts, templates), *_find(tower, sentences, TEMPLATES["none"])]
    if not found:
        return []
    if not long_text:
        _check_distinct(tower, recipe, templates, {one.text for one in found})
    shown_first = "; ".join(_told(one, long_text) for one in found[:_MOST_SHOWN])
    more = f"; and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
    how = "longer texts were read in windows" if long_text else "the rest of longer texts was cut (long_text reads it)"
    return [f"the model reads {tower.text_limit} tokens, {how}: {shown_first}{more}"]


def _told(one: _Long, long_text: bool) -> str:
    told = f"{_ends(one.text)} has {one.tokens} in {_ends(one.prompt)}" if one.text != one.prompt else ""
    told = told or f"{_ends(one.text)} has {one.tokens}"
    return told if long_text else f"{told}, what is read ends with {shown(one.read[-40:])}"


def _find(tower: LimitedTower, texts: Sequence[str], templates: Sequence[str]) -> list[_Long]:
    """Return the texts that are too long in a template, each in that in which it is longest.

    Only where the parts might make it too long a filled template is counted: there may be thousands of names.
    """
    distinct = list(dict.fromkeys(texts))
    around = dict(zip(templates, tower.count_tokens([fill(template, "") for template in templates]), strict=True))
    found = []
    for text, own in zip(distinct, tower.count_tokens(distinct), strict=True):
        near = [fill(one, text) for one, count in around.items() if own + count + _SLACK > tower.text_limit]
        counts = tower.count_tokens(near)
        if counts and max(counts) > tower.text_limit:
            longest = near[counts.index(max(counts))]
            found.append(_Long(text, longest, max(counts), tower.read_of([longest])[0]))
    return found


def _check_distinct(tower: LimitedTower, recipe: Recipe, templates: Sequence[str], cut: set[str]) -> None:
    """Refuse queries of different classes, or of a class and none, of which the same is read.

    Raises:
        VocabularyError: There are two; both are named.
    """
    queries = [*recipe.names, *recipe.subclasses, *recipe.extra]
    described = [row >= 0 for row in recipe.description] + [False] * len(queries)
    owners: dict[tuple[str, ...], tuple[int, str]] = {}
    for text, owner, replaced in zip(queries, recipe.query_to_class, described, strict=False):
        if replaced and not recipe.options.descriptions_with_templates:
            continue
        key = tuple(tower.read_of([fill(template, text) for template in templates]))
        other, name = owners.setdefault(key, (owner, text))
        if other != owner and cut & {text, name}:
            raise VocabularyError(
                f"{_named(other, name)} and {_named(owner, text)} become the same text: the model reads "
                f"{tower.text_limit} tokens, of both {shown(key[0][-40:])} at the end; say what differs earlier, or "
                "read all of it by --long-text (MODEL.TEXT.LONG_TEXT)"
            )


def _named(owner: int, text: str) -> str:
    return f"the background word {_ends(text)}" if owner < 0 else f"class {owner} ({_ends(text)})"


def _ends(text: str) -> str:
    """Show both ends of a long text: such texts often differ at the end alone."""
    return shown(text if len(text) <= 50 else f"{text[:22]} ... {text[-22:]}")
