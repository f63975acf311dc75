"""What is chosen by name: it is found by lying in its folder, listed by `names`, and built by one typed `build`.

A kind of such things, a `Kind`, stands in the room it belongs to, beside the registry that its files fill. Options are
the keyword-only parameters of a class or function; their types and defaults stand there and nowhere else.
"""

from __future__ import annotations

import collections.abc
import difflib
import importlib
import inspect
import os
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from ovseg.errors import ConfigError, EnvironmentProblem, unknown_name

Entry = TypeVar("Entry", covariant=True)
Built = TypeVar("Built")
Options: typing.TypeAlias = dict[str, inspect.Parameter]


@dataclass(frozen=True)
class Kind(Generic[Entry]):
    """A kind of things that are chosen by name.

    Attributes:
        word: What messages call one of them, such as ``"region generator"``.
        entries: Where they are registered: a registry of Detectron2, or a mapping.
        counts: Tells which entries count, for a registry may hold what others registered; None: all do.
    """

    word: str
    entries: Mapping[str, Entry] | Iterable[tuple[str, Entry]]
    counts: Callable[[Any], bool] | None = None

    def all(self) -> dict[str, Entry]:
        """Return the entries by name, in the order of registration."""
        return {name: one for name, one in dict(self.entries).items() if self.counts is None or self.counts(one)}


def register_all(package: str, variable: str = "") -> None:
    """Import every file and sub-package of a package, so that what lies in it is registered.

    Args:
        package: Its name; it may be just being imported.
        variable: An environment variable with folders of the user's own, divided like those of ``PATH``; their files
            become modules of the package.

    Raises:
        EnvironmentProblem: A folder does not exist, or a file in it cannot be imported or is called like one of ours.
    """
    home = importlib.import_module(package)
    for module in pkgutil.iter_modules(home.__path__):
        importlib.import_module(f"{package}.{module.name}")
    for folder in filter(None, os.environ.get(variable, "").split(os.pathsep) if variable else ()):
        _register_own(home, folder, variable)


def _register_own(home: ModuleType, folder: str, variable: str) -> None:
    """Import the files of a user's folder as modules of a package."""
    if not Path(folder).is_dir():
        raise EnvironmentProblem(f"{variable} names '{folder}', which is no folder; correct or unset the variable")
    taken = {module.name for module in pkgutil.iter_modules(path for path in home.__path__ if path != folder)}
    if folder not in home.__path__:
        home.__path__.append(folder)
    for module in pkgutil.iter_modules([folder]):
        if module.name in taken:
            raise EnvironmentProblem(
                f"'{module.name}' in {folder} is called like another file of {home.__name__}; rename it"
            )
        try:
            importlib.import_module(f"{home.__name__}.{module.name}")
        except Exception as error:  # whatever a file of a user may raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise EnvironmentProblem(f"'{module.name}' in {folder} cannot be imported ({reason})") from error


def names(kind: Kind[Any]) -> list[str]:
    """Return the names of all things of a kind, sorted, in the spelling of their registration."""
    return sorted(kind.all())


def find(kind: Kind[Entry], name: str, besides: Iterable[str] = ()) -> Entry:
    """Look a thing up by name, in any case; arguments and errors are those of `spelling`."""
    return kind.all()[spelling(kind, name, besides)]


def spelling(kind: Kind[Any], name: str, besides: Iterable[str] = ()) -> str:
    """Return the spelling under which a name is registered.

    Args:
        kind: What it is the name of.
        name: The name, in any case.
        besides: What else may stand in this place, for the hint of the message.

    Raises:
        UnknownNameError: There is none; near matches are named.
    """
    folded = {one.casefold(): one for one in kind.all()}
    if name.casefold() not in folded:
        raise unknown_name(kind.word, name, [*folded.values(), *besides])
    return folded[name.casefold()]


def build(
    kind: Kind[Callable[..., Built]], name: str, options: Mapping[str, Any] | None = None, besides: Iterable[str] = ()
) -> Built:
    """Build a thing by name and options.

    Args:
        kind: What it is.
        name: Its name, in any case.
        options: Values of keyword-only parameters of its class, or of the function that makes it.
        besides: See `spelling`.

    Raises:
        UnknownNameError: There is none of this name; near matches are named.
        ConfigError: No such option, one is missing, or a value is of a wrong type or out of range.
    """
    maker = find(kind, name, besides)
    word = getattr(maker, "__name__", name)
    return maker(**check_options(word, options_of(maker), options or {}))


def options_of(maker: Callable[..., Any]) -> Options:
    """Return the options of a class or function by name: its keyword-only parameters, with their types resolved.

    Those of base classes belong to them as long as constructors hand on what they do not know (``**common``).

    Raises:
        EnvironmentProblem: A type is written as a text, and cannot be found where it is written.
    """
    makers = [maker]
    if isinstance(maker, type):
        makers = [vars(cls)["__init__"] for cls in maker.__mro__ if "__init__" in vars(cls)]
    found: Options = {}
    for function in makers:
        try:
            parameters = inspect.signature(function, eval_str=True).parameters.values()
        except (NameError, AttributeError, TypeError, SyntaxError) as error:
            word = getattr(maker, "__name__", maker)
            raise EnvironmentProblem(
                f"the option types of {word} cannot be read ({error}); import what they name at the top of "
                f"its file, not for type checking alone"
            ) from error
        for one in parameters:
            if one.kind is one.KEYWORD_ONLY:
                found.setdefault(one.name, one)
        if not any(one.kind is one.VAR_KEYWORD for one in parameters):
            break
    return found


def check_options(owner: str, known: Options, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that may be passed on; lists become tuples where a tuple is expected.

    Args:
        owner: Whose options they are, for messages.
        known: All that there are.
        options: The given ones.

    Raises:
        ConfigError: No such option (near matches are named), one without a default is missing, or a value is of a
            wrong type.
    """
    checked: dict[str, Any] = {}
    for option, value in options.items():
        if option not in known:
            near = difflib.get_close_matches(option, known, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
            raise ConfigError(f"unknown option '{option}' of {owner}; {hint}")
        expected = known[option].annotation
        if not fits(value, expected):
            kind = "None" if value is None else type(value).__name__
            wanted = " or ".join(sorted(map(_shown, _choices(expected))))
            raise ConfigError(f"option {option} is {value!r} ({kind}); expected {wanted}")
        checked[option] = tuple(value) if isinstance(value, list) and _takes_tuple(expected) else value
    for option, one in known.items():
        if one.default is one.empty and option not in checked:
            raise ConfigError(f"{owner} is missing a required option '{option}' ({_shown(one.annotation)}); give it")
    return checked


def fits(value: Any, expected: Any) -> bool:
    """Return whether a value is of a type; an int is welcome as a float, a bool as nothing else, a list as a tuple.

    Args:
        value: As YAML or a command line gives it, or an object.
        expected: A type as it may be annotated; what has none fits any value.
    """
    if expected in (Any, inspect.Parameter.empty):
        return True
    choices, base, inner = _choices(expected), typing.get_origin(expected) or expected, typing.get_args(expected)
    if len(choices) > 1:
        return any(fits(value, one) for one in choices)
    if base is typing.Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if value is None or isinstance(value, bool):
        return base in ((None, types.NoneType) if value is None else (bool, object))
    if not isinstance(base, type):
        return True  # a type variable and the like, about which nothing is known
    if issubclass(base, collections.abc.Sequence) and not issubclass(base, str | bytes):
        return _fits_sequence(value, base, inner)
    if issubclass(base, collections.abc.Mapping) and inner and isinstance(value, Mapping):
        return all(fits(key, inner[0]) and fits(one, inner[1]) for key, one in value.items())
    return isinstance(value, int | float if base is float else base)


def _fits_sequence(value: Any, base: type, inner: tuple[Any, ...]) -> bool:
    if not isinstance(value, list | tuple):
        return isinstance(value, base) and not isinstance(value, str | bytes)
    if base is tuple and inner and inner[-1] is not Ellipsis:
        return len(value) == len(inner) and all(map(fits, value, inner))
    return all(fits(one, inner[0] if inner else Any) for one in value)


def _choices(expected: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    union = typing.get_origin(expected) in (typing.Union, types.UnionType)
    return typing.get_args(expected) if union else (expected,)


def _takes_tuple(expected: Any) -> bool:
    return any((typing.get_origin(one) or one) is tuple for one in _choices(expected))


def _shown(expected: Any) -> str:
    """Return a type as one writes it."""
    if expected in (None, types.NoneType):
        return "None"
    if typing.get_origin(expected) is typing.Literal:
        return " or ".join(map(repr, typing.get_args(expected)))
    plain = isinstance(expected, type) and not typing.get_args(expected)
    return expected.__name__ if plain else str(expected).replace("typing.", "").replace("collections.abc.", "")
