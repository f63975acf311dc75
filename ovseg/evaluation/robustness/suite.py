"""From what a user asks for to a list of conditions, and from their scores to means and drops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ovseg.errors import InputError
from ovseg.evaluation.robustness.condition import Condition
from ovseg.evaluation.robustness.corruptions import CORRUPTIONS, KIND, SEVERITIES, Corruption
from ovseg.evaluation.robustness.names import Paraphrase, Typos
from ovseg.evaluation.robustness.openness import Distractors
from ovseg.evaluation.robustness.typographic import Typographic
from ovseg.system.registry import spelling
from ovseg.vocabulary import Vocabulary

_KINDS = list(CORRUPTIONS)
GROUPS = {
    "noise": _KINDS[:3],
    "blur": _KINDS[3:7],
    "weather": _KINDS[7:11],
    "digital": _KINDS[11:],
}


def conditions(
    corruptions: str = "",
    typos: str = "",
    paraphrases: str = "",
    distractors: str = "",
    typographic: str = "",
    source: Vocabulary | None = None,
    seed: int = 0,
) -> list[Condition]:
    """Read what is to be tested; the clean condition is always there, first.

    Args:
        corruptions: Names of `CORRUPTIONS` or groups (``all``, ``noise``, ``blur``, ``weather``, ``digital``), each
            with severities behind a colon or without for all five: ``"fog,snow:3,blur:1-2"``.
        typos: Numbers of mistakes in each name: ``"1,2"`` or ``"1-3"``.
        paraphrases: Numbers of wordings, ``"1-5"``.
        distractors: Numbers of added names, ``"10,100"``.
        typographic: Severities, ``"1-5"``.
        source: Words to take distractors from; None for those of the presets.
        seed: Of everything that is drawn.

    Raises:
        InputError: A text is not such a list, or a severity does not exist.
        UnknownNameError: No such corruption.
    """
    found: list[Condition] = [Condition(seed=seed)]
    for name, severities in _named(corruptions):
        found += [Corruption(name, severity, seed) for severity in severities]
    found += [Typos(severity=n, seed=seed) for n in _numbers(typos, "typos")]
    found += [Paraphrase(severity=n, seed=seed) for n in _numbers(paraphrases, "paraphrases")]
    found += [Distractors(severity=n, seed=seed, source=source) for n in _numbers(distractors, "distractors")]
    found += [Typographic(severity=n, seed=seed) for n in _numbers(typographic, "typographic")]
    return list({condition.key: condition for condition in found}.values())


def _named(text: str) -> Iterator[tuple[str, Sequence[int]]]:
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, numbers = part.partition(":")
        if name == "all":
            kinds = list(CORRUPTIONS)
        else:
            kinds = GROUPS.get(name) or [spelling(KIND, name, besides=["all", *GROUPS])]
        severities = _numbers(numbers, f"corruption '{name}'") or SEVERITIES
        yield from ((kind, severities) for kind in kinds)


def _numbers(text: str, what: str) -> list[int]:
    """Read ``"1,3-5"``."""
    found: list[int] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = part.partition("-")
        digits = first.isdecimal() and (last or first).isdecimal()
        numbers = range(int(first), int(last or first) + 1) if digits else range(0)
        if not numbers:
            raise InputError(f"{what} is '{text}'; expected numbers such as 1,3 or 1-5")
        found += numbers
    return found


def summarise(scores: Sequence[tuple[Condition, Mapping[str, float | None]]]) -> dict[str, Any]:
    """Compare the scores of conditions with the clean ones.

    The mean of a family is that over its names of the means over their severities, so that a corruption measured at
    more severities counts no more. The drop is the clean score less the mean, in the same unit; positive is worse.

    Args:
        scores: Conditions with the numbers that were measured under them; the clean one is among them.

    Returns:
        ``clean``: its numbers; ``conditions``: one row each with name, family, severity, ``numbers`` and ``drop``;
        ``families``: for each ``mean``, ``drop`` and, name by name, ``names``. None stands for what is not known.

    Raises:
        InputError: The clean condition is missing.
    """
    clean = next((numbers for condition, numbers in scores if condition.FAMILY == "clean"), None)
    if clean is None:
        raise InputError("scores lack the clean condition; expected it among them, to tell what was lost")
    rows: list[dict[str, Any]] = [
        {
            "key": condition.key,
            "name": condition.name,
            "family": condition.FAMILY,
            "severity": condition.severity,
            "numbers": dict(numbers),
            "drop": _drop(clean, numbers),
        }
        for condition, numbers in scores
        if condition.FAMILY != "clean"
    ]
    families = {}
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        names = {
            name: _mean(clean, [row["numbers"] for row in own if row["name"] == name])
            for name in dict.fromkeys(row["name"] for row in own)
        }
        mean = _mean(clean, list(names.values()))
        families[family] = {"mean": mean, "drop": _drop(clean, mean), "names": names}
    return {"clean": dict(clean), "conditions": rows, "families": families}


def _mean(keys: Mapping[str, Any], rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for key in keys:
        known = [value for value in (row.get(key) for row in rows) if value is not None]
        found[key] = sum(known) / len(known) if known else None
    return found


def _drop(clean: Mapping[str, float | None], numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    pairs = {key: (value, numbers.get(key)) for key, value in clean.items()}
    return {key: None if a is None or b is None else a - b for key, (a, b) in pairs.items()}
