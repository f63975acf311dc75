"""The data of a run: what is trained and validated on, what was left out, and everything that the log says of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.data.contents import Contents
from ovseg.data.dataset import Dataset
from ovseg.data.registration import choose_classes, load_datasets, register_dataset
from ovseg.engine.held_out import HeldOut, draw, is_share
from ovseg.engine.pace import log
from ovseg.engine.soundness import Examined, brief, dropped, examine
from ovseg.errors import ConfigError, InputError
from ovseg.vocabulary import Vocabulary

if TYPE_CHECKING:
    from detectron2.config import CfgNode


@dataclass(frozen=True, eq=False)
class TestSet:
    """What is validated on.

    Attributes:
        dataset: With all its records; those that cannot be used are left out of the numbers, and counted.
        trained_on: So many of its images are training images, by content.
        share: As ``10%``, where it was held out of the training images.
    """

    dataset: Dataset
    trained_on: int = 0
    share: str = ""

    __test__ = False  # for pytest: it is none of its tests


@dataclass(eq=False)
class RunData:
    """The data of a run.

    Attributes:
        train: With the same classes, and only images that can be used.
        contents: Their files.
        tests: What is validated on.
        held_out: What was held out of the training images; None for nothing.
        record: What was said of the data, for the record of the run.
    """

    train: list[Dataset] = field(default_factory=list)
    contents: list[Contents] = field(default_factory=list)
    tests: list[TestSet] = field(default_factory=list)
    held_out: HeldOut | None = None
    record: dict[str, Any] = field(default_factory=dict)


def load_run_data(cfg: CfgNode, kept: HeldOut | None, skip_broken: bool = False) -> RunData:
    """Read all that a run trains and validates on, every image of it, and say what there is to say.

    Args:
        cfg: The config of the run.
        kept: What the run that goes on has held out.
        skip_broken: Go on without training images that cannot be used.

    Raises:
        InputError: Training images cannot be used, and `skip_broken` is not set; all of them are in the log.
        OvsegError: A data set cannot be used at all.
    """
    names, words = cfg.DATASETS.TRAIN, chosen_words(cfg)
    shares = [name for name in cfg.DATASETS.TEST if is_share(name)]
    if len(shares) > 1:
        raise ConfigError(f"validation on {' and '.join(shares)} of the training images; expected one share")
    own = [register_dataset(name) for name in names] if names and any(words) else load_datasets(names)
    pairs = list(zip(own, choose_classes(own, *words), strict=True))
    examined = [examine(before) for before, _ in pairs]
    data = RunData(record={"train": [], "test": []})
    usable = _usable(examined, skip_broken)
    if shares:
        data.held_out = _hold_out(examined, usable, shares[0], cfg.SEED, kept)
    trained: set[str] = set()
    for (before, after), one, places in zip(pairs, examined, usable, strict=True):
        out = set(data.held_out.images[before.name]) if data.held_out else set()
        parts: dict[bool, list[int]] = {True: [], False: []}
        for place, name in enumerate(one.contents.images):
            if place in places:
                parts[name in out].append(place)
        _add_training(data, before, after, one, parts[False])
        trained |= {one.hashes[place] for place in parts[False]}
        if out:
            held = replace(after, records=[after.records[place] for place in parts[True]], problems=())
            data.tests.append(TestSet(held, share=shares[0]))
    data.tests += load_tests([name for name in cfg.DATASETS.TEST if name not in shares], words, trained, data.record)
    for test in data.tests:
        _compare_classes(data.train[0].classes, test.dataset)
    return data


def load_tests(
    names: Sequence[str], words: tuple[str, str], trained: Collection[str], record: dict[str, Any]
) -> list[TestSet]:
    """Read what is validated on; what of it cannot be used is said, and ends nothing.

    Args:
        names: Data sets.
        words: Of `chosen_words`.
        trained: Hashes of the images that were trained on.
        record: Its ``test`` gets what is said.

    Raises:
        OvsegError: A data set cannot be used at all.
    """
    found = []
    for name in names:
        before = register_dataset(name)
        (after,) = choose_classes([before], *words)
        one = examine(before, judging=True)
        if one.problems:
            _say_problems(f"'{name}': {len(one.faults)} of its {len(after.records)} images cannot be validated on", one)
        lines = [f"'{name}': {note}" for note in after.notes] + list(filter(None, [dropped(before, after, one.areas)]))
        shared = sum(value in trained for place, value in enumerate(one.hashes) if place not in one.faults and value)
        found.append(TestSet(after, shared))
        _say(lines)
        entry = {"name": name, "images": len(after.records), "notes": lines, "problems": one.problems}
        record["test"].append({**entry, "trained_on": shared})
    return found


def chosen_words(cfg: CfgNode) -> tuple[str, str]:
    """Return the words in place of the classes of data, and other names for some; both empty for their own."""
    return cfg.DATASETS.VOCABULARY, cfg.DATASETS.RENAME


def _usable(examined: Sequence[Examined], skip_broken: bool) -> list[set[int]]:
    """Return the places of images that can be trained on; the others are named."""
    problems: list[str] = []
    for one in examined:
        if one.problems:
            problems += one.problems
            count = f"{len(one.faults)} of its {len(one.dataset.records)} images cannot be used"
            _say_problems(f"'{one.dataset.name}': {count}", one)
    if problems and not skip_broken:
        more = f" (and {len(problems) - 1} more, see above)" if problems[1:] else ""
        raise InputError(f"{problems[0]}{more}; mend it, or leave out what cannot be used by --skip-broken")
    return [set(range(len(one.dataset.records))) - one.faults.keys() for one in examined]


def _say_problems(count: str, one: Examined) -> None:
    _say([f"{count} (`ovseg datasets check {one.dataset.name}` lists all):"])
    _say([f"  {line}" for line in brief(one.problems)])


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        log.info(line)


def _hold_out(
    examined: Sequence[Examined], usable: Sequence[set[int]], share: str, seed: int, kept: HeldOut | None
) -> HeldOut:
    """Draw what is held out; a run that goes on keeps what it has held out."""
    names = list(dict.fromkeys(one.dataset.name for one in examined))
    if kept and (kept.share, kept.seed, len(kept.images)) == (share, seed, len(names)):
        return HeldOut(share, seed, dict(zip(names, kept.images.values(), strict=True)))  # data may lie elsewhere now
    images = {}
    for one, places in zip(examined, usable, strict=True):
        pictures = list(one.contents.images)
        drawn = draw(one.hashes, sorted(places), share, seed, one.dataset.name)
        images[one.dataset.name] = [pictures[place] for place in drawn]
    return HeldOut(share, seed, images)


def _add_training(data: RunData, before: Dataset, after: Dataset, one: Examined, places: list[int]) -> None:
    """Add a data set of which these images are trained on."""
    if not places:
        raise InputError(f"'{before.name}' has no image that can be trained on; `ovseg datasets check {before.name}`")
    part, contents = Examined(after, one.contents, {}, one.areas).part(places)
    lines = [f"'{before.name}': {note}" for note in after.notes] + list(
        filter(None, [dropped(before, after, one.areas)])
    )
    _say(lines)
    data.train.append(part)
    data.contents.append(replace(contents, classes=after.classes))
    entry = {"name": before.name, "images": len(places), "classes": after.classes.names, "notes": lines}
    data.record["train"].append({**entry, "left_out": one.problems})


def _compare_classes(learnt: Vocabulary, test: Dataset) -> None:
    """Say which classes of a test set are not learnt: the model knows them as words alone."""
    known = {name.casefold() for name in learnt.queries}
    new = [entry.name for entry in test.classes if known.isdisjoint(name.casefold() for name in entry.names)]
    if new and test.kind != "prompts":
        named = ", ".join(new[:10]) + (f" and {len(new) - 10} more" if new[10:] else "")
        _say([f"'{test.name}': {len(new)} of its {len(test.classes)} classes are not learnt here: {named}"])


def load_held_out(cfg: CfgNode, folder: Path) -> list[TestSet]:
    """Read the images again that the run in a folder has held out.

    Raises:
        ConfigError: It has held out none.
    """
    kept = HeldOut.read(folder)
    if kept is None:
        raise ConfigError(
            "a share of the training images is held out by a training; to evaluate on it give the folder of the run as "
            "--config-file, or evaluate on --val DIR"
        )
    found = []
    for name, images in kept.images.items():
        (dataset,) = choose_classes([register_dataset(name)], *chosen_words(cfg))
        chosen = set(images)
        records = [record for record in dataset.records if dataset.image_name(record) in chosen]
        found.append(TestSet(replace(dataset, records=records, problems=()), share=kept.share))
    return found
