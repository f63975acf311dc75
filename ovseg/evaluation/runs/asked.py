"""What a model is asked for the classes of a data set: by which words, and which class needs none.

A protocol brings the words of its authors, which stand for classes of a data set where nothing has to be guessed.

Where a data set has a class that stands for anything else, and the background policy leaves pixels without a class,
these pixels are that class, as in the protocols of all papers that have such a policy; so its name is not asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ovseg.data.benchmarks import benchmark_names
from ovseg.data.dataset import VOID, Dataset
from ovseg.data.matching import DROPPED, listed, match_classes
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary, list_presets
from ovseg.vocabulary.background import Background
from ovseg.vocabulary.names import fold


@dataclass(frozen=True, eq=False)
class Asked:
    """The words of a data set's classes, and what becomes of pixels that get none.

    Attributes:
        vocabulary: The words, in the order in which they are asked; those of `silent` are among them.
        ids: (N,) int64, the class of the data set that each stands for.
        rest: Class that pixels without any count as; -1 where they count as none.
        silent: Whether the words of `rest` are left out when the model is asked.
        notes: What the reader of the result should know, a line each.
    """

    vocabulary: Vocabulary
    ids: np.ndarray
    rest: int = VOID
    silent: bool = False
    notes: tuple[str, ...] = ()

    def of(self, ids: np.ndarray) -> Asked:
        """Return what is asked for some classes (N,) of the data set, in their order; one that is silent stays."""
        if self.silent:
            ids = np.append(ids[ids != self.rest], self.rest)
        places = np.argsort(self.ids)[ids]
        return replace(self, vocabulary=Vocabulary(tuple(self.vocabulary[i] for i in places)), ids=self.ids[places])

    def filling(self, rest: int, policy: Background, given: str | None, settings: Mapping[str, Any]) -> Asked:
        """Let pixels without a class count as the class that stands for anything else, where a policy leaves such.

        Args:
            rest: Of the data set, see `Dataset.rest_class`.
            policy: In force.
            given: What the user has asked for; ``none`` asks for the name like any word.
            settings: Of the model, whose threshold may leave pixels too, or give them a class by its place.
        """
        own = VOID if policy.threshold else own_threshold(settings)
        leaves = policy.threshold or policy.words or (own == VOID and given is None)
        if rest < 0 or not leaves or (given is not None and policy.policy == "none"):
            return self
        name = self.vocabulary[int(np.flatnonzero(self.ids == rest)[0])].name
        by = f"background policy '{policy.policy}'" if policy.policy != "none" else "the threshold of the model"
        silent = own is None or own < 0
        asked = (
            "which is not asked by its name; --background none asks it like any word"
            if silent
            else "which is asked by its name, too, for the threshold of the model gives a class by its place"
        )
        note = f"pixels that {by} leaves without a class count as '{name}', {asked}"
        return replace(self, rest=rest, silent=silent, notes=(*self.notes, note))


def own_threshold(settings: Mapping[str, Any]) -> int | None:
    """Return what pixels below the threshold of a model's config get: a place, -1 for no class; None without one."""
    rule, least = settings.get("rule", {}), settings.get("thresholds", {})
    if rule.get("prob_threshold", 0) > 0:
        return int(rule["threshold_label"])
    return int(least["label"]) if least.get("threshold", 0) > 0 else None


def by_own_names(dataset: Dataset) -> Asked:
    """Ask for the classes of a data set by their names, in their order."""
    return Asked(dataset.classes, np.arange(len(dataset.classes)))


def by_protocol(dataset: Dataset, words: Vocabulary, protocol: str) -> Asked:
    """Ask for the classes of a data set by the words of a protocol, in the order of these.

    Each word is one class and each class has one, but for the class that stands for anything else, whose name is asked
    where the protocol has none. They are matched by name and synonym; else by position, where the protocol is for this
    very list: it has the name of the benchmark, or of a preset with the same names in the same order.

    Args:
        dataset: With its own classes.
        words: Of the protocol.
        protocol: Its name.

    Returns:
        What is asked: by the data set's own names where the words do not fit, which a note says.
    """
    own, rest = dataset.classes, dataset.rest_class
    named = _places(dataset, words)
    ids, how = _one_to_one(named, len(words), rest), "by name"
    if ids is None and _is_for(dataset, protocol):
        ids, how = _in_order(named, len(words), len(own), rest), "by position, for the protocol is for this list"
    if ids is None:
        note = f"the words of protocol '{protocol}' ({listed(words.names, 3)}) are not one for each class here, so the "
        return replace(by_own_names(dataset), notes=(f"{note}data set's own are asked; --vocabulary asks others",))
    entries = [replace(own[place], names=entry.names) for place, entry in zip(ids, words, strict=True)]
    if rest >= 0 and rest not in ids:
        ids, entries = [*ids, rest], [*entries, own[rest]]
    other = [
        f"{own[place].name} as {'|'.join(entry.names)}"
        for place, entry in zip(ids, entries, strict=True)
        if entry.names != own[place].names
    ]
    note = f"asked by the words of protocol '{protocol}', matched {how}: {listed(other)}"
    return Asked(Vocabulary(tuple(entries)), np.array(ids), notes=(note,) if other else ())


def _places(dataset: Dataset, words: Vocabulary) -> list[int]:
    """Return for each class of a data set the word that has one of its names, -1 for none; all are -1 in doubt."""
    try:
        return match_classes(dataset.classes, words, dataset.name, False).places.tolist()
    except InputError:  # no name in common, or one that fits two
        return [DROPPED] * len(dataset.classes)


def _one_to_one(named: list[int], count: int, rest: int) -> list[int] | None:
    """Return the class of each word, where every class but `rest` has one of its own and no word is left."""
    ids = {word: place for place, word in enumerate(named) if word >= 0}
    lost = {place for place, word in enumerate(named) if word < 0} - {rest}
    several = len(ids) < sum(word >= 0 for word in named)
    return None if lost or several or len(ids) < count else [ids[word] for word in range(count)]


def _in_order(named: list[int], count: int, total: int, rest: int) -> list[int] | None:
    """Return the class of each word by position, where the counts agree and no name says otherwise."""
    ids = [place for place in range(total) if count == total or place != rest]
    fits = len(ids) == count and all(named[place] in (DROPPED, word) for word, place in enumerate(ids))
    return ids if fits else None


def _is_for(dataset: Dataset, protocol: str) -> bool:
    """Whether a protocol is for the list of classes of a data set."""
    known = benchmark_names().get(dataset.name)
    if known and known[0].name == protocol:
        return True
    names = [fold(name) for name in dataset.classes.names]
    return protocol in list_presets() and [fold(name) for name in Vocabulary.parse(protocol).names] == names
