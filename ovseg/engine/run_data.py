"""The data of a run: what is trained and validated on, what was left out, and everything that the log says of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.data.contents import Contents, contents_of
from ovseg.data.dataset import Dataset
from ovseg.data.findings import brief
from ovseg.data.matching import counted
from ovseg.data.registration import choose_classes, load_datasets, register_dataset
from ovseg.engine.held_out import HeldOut, draw, is_share
from ovseg.engine.pace import log
from ovseg.engine.soundness import Examined, examine
from ovseg.errors import ConfigError, InputError
from ovseg.system.values import some
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
        earlier: Hashes of images that the weights were trained on before.
    """

    train: list[Dataset] = field(default_factory=list)
    contents: list[Contents] = field(default_factory=list)
    tests: list[TestSet] = field(default_factory=list)
    held_out: HeldOut | None = None
    record: dict[str, Any] = field(default_factory=dict)
    earlier: Collection[str] = ()


def load_run_data(
    cfg: CfgNode, kept: HeldOut | None, skip_broken: bool = False, earlier: Collection[str] = ()
) -> RunData:
    """Read all that a run trains and validates on, every image of it, and say what there is to say.

    Args:
        cfg: The config of the run.
        kept: What the run that goes on has held out.
        skip_broken: Go on without training images that cannot be used.
        earlier: Hashes of images that the weights were trained on before.

    Raises:
        InputError: Training images cannot be used, and `skip_broken` is not set; all of them are in the log.
        OvsegError: A data set cannot be used at all.
    """
    names, words = cfg.DATASETS.TRAIN, chosen_words(cfg)
    shares = [name for name in cfg.DATASETS.TEST if is_share(name)]
    if len(shares) > 1:
        raise ConfigError(f"validation on {' and '.join(shares)} of the training images; expected one share")
    own = [register_dataset(name) for name in names] if names and any(words) else load_datasets(names)
    examined = [examine(dataset) for dataset in choose_classes(own, *words)]
    data = RunData(record={"train": [], "test": []}, earlier=earlier)
    usable = _usable(examined, skip_broken)
    if shares:
        data.held_out = _hold_out(examined, usable, shares[0], cfg.SEED, kept)
    trained = set(earlier)
    for one, places in zip(examined, usable, strict=True):
        out = set(data.held_out.images[one.dataset.name]) if data.held_out else set()
        parts: dict[bool, list[int]] = {True: [], False: []}
        for place, name in enumerate(one.contents.images):
            if place in places:
                parts[name in out].append(place)
        _add_training(data, one, parts[False])
        trained |= {one.hashes[place] for place in parts[False]}
        if out:
            held, _ = one.part(parts[True])
            known = sum(one.hashes[place] in earlier for place in parts[True])
            data.tests.append(TestSet(replace(held, problems=()), known, shares[0]))
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
        (dataset,) = choose_classes([register_dataset(name)], *words)
        one = examine(dataset, judging=True)
        if len(one.faults) == len(dataset.records):
            first = next(iter(one.report.problems), "it lists none")
            raise InputError(f"'{name}' has no image that can be validated on ({first}); see `ovseg datasets check`")
        _say_problems(one, "validated on")
        shared = sum(value in trained for place, value in enumerate(one.hashes) if place not in one.faults and value)
        found.append(TestSet(dataset, shared))
        entry = {"name": name, "images": len(dataset.records), "problems": one.report.problems, **_tell(one)}
        record["test"].append({**entry, "trained_on": shared})
    return found


def chosen_words(cfg: CfgNode) -> tuple[str, str]:
    """Return the words in place of the classes of data, and other names for some; both empty for their own."""
    return cfg.DATASETS.VOCABULARY, cfg.DATASETS.RENAME


def _usable(examined: Sequence[Examined], skip_broken: bool) -> list[set[int]]:
    """Return the places of images that can be trained on; the others are named."""
    problems = [line for one in examined for line in one.report.problems]
    for one in examined:
        _say_problems(one, "used")
    if problems and not skip_broken:
        more = f" (and {len(problems) - 1} more, see above)" if problems[1:] else ""
        raise InputError(f"{problems[0]}{more}; mend it, or leave out what cannot be used by --skip-broken")
    return [set(range(len(one.dataset.records))) - one.faults.keys() for one in examined]


def _say_problems(one: Examined, use: str) -> None:
    if problems := one.report.problems:
        name, images = one.dataset.name, f"{len(one.faults)} of its {len(one.dataset.records)} images cannot be {use}"
        count = counted(len(problems), "problem", "problems")
        _say([f"'{name}': {count}, {images} (`ovseg datasets check {name}` lists all):"])
        _say([f"  {line}" for line in brief(problems)])


def _tell(one: Examined) -> dict[str, Any]:
    """Say what became of the classes, what reading got around, and what may be wrong; returns it for the record."""
    report, name = one.report, one.dataset.name
    hints = [f"hint: {line}" for line in brief(report.hints)]
    _say([f"'{name}': {line}" for line in (*report.notes, *brief(report.left_out), *hints)])
    return {"notes": report.notes, "left_out": report.left_out, "hints": report.hints}


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        log.info(line)


def _hold_out(
    examined: Sequence[Examined], usable: Sequence[set[int]], share: str, seed: int, kept: HeldOut | None
) -> HeldOut:
    """Draw what is held out, with all its copies; a run that goes on keeps what it has held out."""
    names = list(dict.fromkeys(one.dataset.name for one in examined))
    before = None
    if kept and (kept.share, kept.seed, len(kept.images)) == (share, seed, len(names)):
        before = dict(zip(names, map(set, kept.images.values()), strict=True))  # data may lie elsewhere now
    out = set()
    for one, places in zip(examined, usable, strict=True):
        name, pictures = one.dataset.name, list(one.contents.images)
        if before is None:
            drawn = draw(one.hashes, sorted(places), share, seed, name)
        else:
            drawn = [place for place in sorted(places) if pictures[place] in before[name]]
            if gone := len(before[name]) - len(drawn):
                _say([f"'{name}': {gone} of its {len(before[name])} images that were held out cannot be used any more"])
        out |= {one.hashes[place] for place in drawn}
    images = {
        one.dataset.name: [
            name for place, name in enumerate(one.contents.images) if place in places and one.hashes[place] in out
        ]
        for one, places in zip(examined, usable, strict=True)
    }
    return HeldOut(share, seed, images)


def _add_training(data: RunData, one: Examined, places: list[int]) -> None:
    """Add a data set of which these images are trained on."""
    name = one.dataset.name
    if not places:
        raise InputError(f"'{name}' has no image that can be trained on; `ovseg datasets check {name}`")
    part, contents = one.part(places)
    data.train.append(part)
    data.contents.append(contents)
    entry = {"name": name, "images": len(places), "classes": part.classes.names, "problems": one.report.problems}
    data.record["train"].append({**entry, **_tell(one)})


def _compare_classes(learnt: Vocabulary, test: Dataset) -> None:
    """Say which classes of a test set are not learnt: the model knows them as words alone."""
    known = {name.casefold() for name in learnt.queries}
    new = [entry.name for entry in test.classes if known.isdisjoint(name.casefold() for name in entry.names)]
    if new and test.kind != "prompts":
        _say([f"'{test.name}': {len(new)} of its {len(test.classes)} classes are not learnt here: {some(new, 10)}"])


def load_held_out(cfg: CfgNode, folder: Path, trained: Collection[str]) -> list[TestSet]:
    """Read the images again that the run in a folder has held out.

    Args:
        cfg: The config.
        folder: Of the run.
        trained: As for `load_tests`.

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
        if gone := chosen - {dataset.image_name(record) for record in records}:
            _say([f"'{name}': {len(gone)} of its {len(chosen)} images that were held out are not there any more"])
        part = replace(dataset, records=records, problems=())
        known = sum(one.image.hash in trained for one in contents_of(part).images.values())
        found.append(TestSet(part, known, kept.share))
    return found
