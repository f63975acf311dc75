"""Background policies: what happens to pixels that show none of the user's classes.

- ``none``: every pixel gets one of the classes.
- ``threshold:T``: a pixel whose best score is below T (0 < T <= 1) gets no class.
- ``words``: words for surroundings (a versioned list, see `ovseg.vocabulary.words`) compete; where one wins: no class.
- ``paired``, ``paired:TEXT``: each class is asked by itself whether a pixel shows it or TEXT, ordinarily "object"; in
  it ``{}`` stands for the class. A pixel that says yes to none has no class (CLIP-IQA's pairs, as maps).
- own words: ``"sky, wall"``, ``"words:sky"``, a file or a list of words compete in the same way; they are read as
  classes are (docs/words.md).

A further policy is a function of the option ``argument`` that returns a `Background`, under its name in
`BACKGROUND_REGISTRY`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable

from detectron2.utils.registry import Registry

from ovseg.errors import UnknownNameError, VocabularyError
from ovseg.system.registry import Kind, build
from ovseg.vocabulary.names import check_unique, shown
from ovseg.vocabulary.parsing import is_list, parse_words
from ovseg.vocabulary.words import CURRENT_WORDS, WORD_LISTS

BACKGROUND_REGISTRY = Registry("BACKGROUND")
BACKGROUND_REGISTRY.__doc__ = "Functions from the option argument (the text behind the colon) to a `Background`."


@dataclasses.dataclass(frozen=True)
class Background:
    """A background policy.

    Attributes:
        policy: Canonical text, recorded in results; `parse_background` reads it back to an equal policy.
        threshold: Pixels with a best score (0..1) below it get no class; 0 switches this off.
        words: Extra queries that belong to no class.
        counter: What each class is compared with by itself, ``{}`` being its text; empty where classes compete.
        notes: What was read as something else than it says, a line each; no part of what makes two policies equal.
    """

    policy: str = "none"
    threshold: float = 0.0
    words: tuple[str, ...] = ()
    counter: str = ""
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def asked_of(self, model: object) -> Background:
        """Return the policy, if a model can follow it.

        Raises:
            VocabularyError: It asks in pairs, which the model does not.
        """
        if self.counter and not getattr(model, "answers_pairs", False):
            raise VocabularyError(
                f"background policy {shown(self.policy)} asks about each class by itself, which {type(model).__name__} "
                "cannot; take a model that labels by patches (such as mini-clearclip), or 'words' or 'threshold:0.4'"
            )
        return self


BACKGROUNDS: Kind[Callable[..., Background]] = Kind("background policy", BACKGROUND_REGISTRY)


@BACKGROUND_REGISTRY.register()
def none(*, argument: str = "") -> Background:
    """Give every pixel one of the classes."""
    if argument:
        raise VocabularyError(f"background policy 'none' takes no argument, got {shown(argument)}; write 'none'")
    return Background()


@BACKGROUND_REGISTRY.register()
def threshold(*, argument: str = "") -> Background:
    """Leave pixels without a class whose best score is below a number in (0, 1]."""
    try:
        value = float(argument)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise VocabularyError(
            f"background threshold is {shown(argument)}; expected a number above 0 and at most 1, as in 'threshold:0.4'"
        )
    return Background(f"threshold:{value!r}", threshold=value)


@BACKGROUND_REGISTRY.register()
def paired(*, argument: str = "") -> Background:
    """Ask about each class by itself; the text behind the colon is what it is compared with."""
    counter = " ".join(argument.split()) or "object"
    return Background(f"paired:{counter}", counter=counter)


@BACKGROUND_REGISTRY.register()
def words(*, argument: str = "") -> Background:
    """Let words compete: the shipped list, or the user's own behind the colon."""
    return own_words(argument) if argument else Background(CURRENT_WORDS, words=WORD_LISTS[CURRENT_WORDS])


def own_words(given: str | Iterable[object]) -> Background:
    """Build the policy of a user's own background words.

    Raises:
        VocabularyError: No word, a word that is not allowed or stands twice, or a policy's name among the words.
    """
    notes: list[str] = []
    found = tuple(parse_words(given, "background word", notes))
    if not found:
        raise VocabularyError("the list of background words is empty; give words, or the policy 'none'")
    check_unique([(word, f"background word {i}") for i, word in enumerate(found)])
    for word in found:
        if word in BACKGROUND_REGISTRY or word in WORD_LISTS or ":" in word:
            raise VocabularyError(
                f"background word {shown(word)} reads like a policy; give either one policy or plain words"
            )
    policy = f"words:{', '.join(found)}"
    if parse_words(f"{policy.removeprefix('words:')},", "background word", []) != list(found):
        raise VocabularyError(f"the background words {shown(policy[6:])} cannot stand in one text; write plain words")
    return Background(policy, words=found, notes=tuple(notes))


def parse_background(source: str | Background | Iterable[str] | None) -> Background:
    """Read a background policy.

    A text is a policy when it has no comma, or a colon before the first comma; otherwise it is a list of own words, or
    the name of a file with them. So a lone word is never taken for a background word (it may be a misspelt policy):
    write ``"words:sky"``, ``"sky,"`` or ``["sky"]``.

    Args:
        source: ``"none"`` (or None), ``"threshold:0.4"``, ``"words"``, ``"sky, wall"``, ``"sky.txt"``, a list of words,
            or a `Background`, returned as it is.

    Raises:
        UnknownNameError: No policy has this name; near matches are in the message.
        VocabularyError: The policy's argument or a word is not allowed.
    """
    if isinstance(source, Background):
        return source
    if source is None:
        return Background()
    if not isinstance(source, str):
        if not isinstance(source, Iterable) or isinstance(source, (bytes, set, frozenset)):
            raise VocabularyError(
                f"background is {shown(source)} ({type(source).__name__}); expected a policy or a list of words"
            )
        return own_words(source)
    text = source.strip()
    if not text:
        raise VocabularyError("background is an empty text; expected 'none', 'threshold:0.4', 'words' or 'sky, wall'")
    name, colon, argument = (part.strip() for part in text.partition(":"))
    if is_list(name if colon else text):
        return own_words(text)
    if colon and not argument:
        raise VocabularyError(f"background policy {shown(text)} ends at its colon; say what follows, or drop the colon")
    if text in WORD_LISTS:
        return Background(text, words=WORD_LISTS[text])
    try:
        return build(BACKGROUNDS, name, {"argument": argument}, besides=WORD_LISTS)
    except UnknownNameError as error:
        raise UnknownNameError(f"{error} (for background words of your own write 'words:sky, wall')") from None
