"""What a command line changes in a recipe, and what of the recipe belongs to the data that it replaces."""

from __future__ import annotations

import ast
import secrets
from collections.abc import Sequence
from typing import Any

from detectron2.utils import comm

from ovseg.errors import ConfigError
from ovseg.system.values import merge
from ovseg.zoo import Spec, resolve
from ovseg.zoo.auto import require_named

_WORDS = {"true": True, "false": False, "null": None}  # as YAML writes what Python spells otherwise
_SEEDS = 2**31


def read_options(words: Sequence[str]) -> dict[str, Any]:
    """Turn ``KEY VALUE KEY VALUE`` of a command line into nested changes to a config.

    Raises:
        ConfigError: A value is missing.
    """
    if len(words) % 2:
        raise ConfigError(f"'{words[-1]}' has no value; expected KEY VALUE pairs such as SOLVER.MAX_ITER 1000")
    changes: dict[str, Any] = {}
    for key, text in zip(words[::2], words[1::2], strict=True):
        node = changes
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        try:
            node[last] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            node[last] = _WORDS.get(text, text)
    return changes


def training_spec(config: str, changes: dict[str, Any], evaluating: bool = False) -> tuple[Spec, list[str]]:
    """Resolve a recipe with what the user changes in it.

    Where data are replaced, what the recipe says for its own goes with them: the words in place of the classes
    (``DATASETS.VOCABULARY``, ``DATASETS.RENAME``) and the test sets. The words that a head was trained on
    (``TRAINED_VOCABULARY``, ``MODEL.TEXT.VOCABULARY``) are those of this training. What the user gives counts
    in any case.

    Args:
        config: A YAML file, a shipped one, or the name of a model.
        changes: Nested; a data set may stand alone (``TRAIN: mydata``).
        evaluating: Nothing is trained: the data are those of ``DATASETS.TEST``.

    Returns:
        What it stands for, and a line for each setting that went with the recipe's data.

    Raises:
        OvsegError: As `resolve`.
    """
    require_named(config, "a training")
    spec = resolve(config)
    recipe = spec.settings
    given = _several(changes)
    own, before = given.get("DATASETS", {}), recipe.get("DATASETS", {})
    key = "TEST" if evaluating else "TRAIN"
    dropped: dict[str, Any] = {}
    lines: list[str] = []
    if key in own and list(own[key]) != list(before.get(key, ())):
        for name, empty in (("VOCABULARY", ""), ("RENAME", ""), ("TEST", ())):
            if name not in own and before.get(name):
                dropped[name] = empty
                lines.append(_went(name, before[name], own[key], before.get(key, ())))
    model = {} if evaluating else _trained_words(recipe, given)
    changed = merge({"DATASETS": dropped, "MODEL": model}, given)
    return resolve(config, overrides=changed), lines


def _went(name: str, value: Any, data: Sequence[str], instead: Sequence[str]) -> str:
    said = value if isinstance(value, str) else ", ".join(value)
    own = "it is not validated on" if name == "TEST" else "classes are those of the data"
    place = ", ".join(instead) or "other data"
    return f"DATASETS.{name} '{said}' of the recipe belongs to {place} and is left out for {', '.join(data)}: {own}"


def _trained_words(recipe: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return changes to ``MODEL`` by which the words of this training are the ones that its head knows."""
    before, own = recipe.get("MODEL", {}), given.get("MODEL", {})
    changes: dict[str, Any] = {"TEXT": {"VOCABULARY": ""}}
    kind = own.get("META_ARCHITECTURE", before.get("META_ARCHITECTURE", ""))
    section = {**before.get(kind, {}), **own.get(kind, {})}
    if "TRAINED_VOCABULARY" in section and not section.get("ADAPTER"):  # an adapter leaves the head as it is
        changes[kind] = {"TRAINED_VOCABULARY": ""}
    return changes


def _several(changes: dict[str, Any]) -> dict[str, Any]:
    """Return changes in which ``TRAIN: mydata`` is a list of one."""
    data = changes.get("DATASETS", {})
    alone = {key: (data[key],) for key in ("TRAIN", "TEST") if isinstance(data.get(key), str)}
    return merge(changes, {"DATASETS": alone}) if alone else changes


def with_seed(spec: Spec, config: str, before: int | None) -> tuple[Spec, list[str]]:
    """Draw the seed of a run whose ``SEED`` is -1: once, for a run that goes on has it already.

    Args:
        spec: Of `training_spec`.
        config: What it was resolved from.
        before: The seed of the run that goes on; None for a new one.

    Returns:
        The same with a seed of 0 or more, and a line that says it.

    Raises:
        ConfigError: The seed is less than -1.
    """
    seed = spec.config.SEED
    if seed >= 0:
        return spec, []
    if seed != -1:
        raise ConfigError(f"SEED is {seed}; expected 0 or more, or -1 to draw one")
    drawn = comm.all_gather(secrets.randbelow(_SEEDS))[0] if before is None else before
    overrides = merge(spec.layers[-1].settings, {"SEED": drawn})
    how = "was drawn" if before is None else "is that of the run"
    return resolve(config, overrides=overrides), [f"SEED -1: the seed {drawn} {how}, and is kept in config.yaml"]
