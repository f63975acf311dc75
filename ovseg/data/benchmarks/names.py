"""Class names of data sets made fit for a vocabulary, where every name and synonym may stand once."""

from __future__ import annotations

from collections.abc import Sequence

from ovseg.vocabulary.names import fold


def distinct(classes: Sequence[Sequence[str]]) -> list[list[str]]:
    """Give every name to one class only.

    A name goes to the class that has no other, else to the first that has it; classes that are left without one are
    called by their first name with a number behind it.

    Args:
        classes: Names of each class, its display name first.
    """
    cleaned = [[name.strip() for name in names if name.strip()] for names in classes]
    owner: dict[str, int] = {}
    for alone in (True, False):
        for place, names in enumerate(cleaned):
            for name in names if (len(names) == 1) is alone else ():
                owner.setdefault(fold(name), place)
    found = []
    for place, names in enumerate(cleaned):
        own = {fold(name): name for name in names if owner[fold(name)] == place}
        found.append(list(own.values()) or [_numbered(names[0], owner, place)])
    return found


def _numbered(name: str, owner: dict[str, int], place: int) -> str:
    number = 2
    while fold(f"{name} {number}") in owner:
        number += 1
    owner[fold(f"{name} {number}")] = place
    return f"{name} {number}"
