"""Values as they come in a request, from whoever sends one."""

from __future__ import annotations

from typing import Any

from ovseg.errors import InputError


def text_of(name: str, value: Any) -> str:
    """Return a text; what is missing is an empty one.

    Raises:
        InputError: It is none.
    """
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} is {_shown(value)}; expected a text")
    return value or ""


def whole_of(name: str, value: Any) -> int:
    """Return a whole number.

    Raises:
        InputError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
        raise InputError(f"{name} is {_shown(value)}; expected a whole number")
    return int(value)


def clicks_of(value: Any) -> list[tuple[int, int, bool]]:
    """Return row, column and whether the thing is there of each click.

    Raises:
        InputError: It is no list of them.
    """
    if not isinstance(value, list) or any(not isinstance(one, list) or len(one) != 3 for one in value):
        raise InputError(f"clicks are {_shown(value)}; expected a list of [row, column, inside]")
    return [(whole_of("row", row), whole_of("column", column), bool(inside)) for row, column, inside in value]


def _shown(value: Any) -> str:
    return f"{value!r}"[:60]
