"""Runs of earlier versions, which did not keep what made them: what can be compared is, and the rest is said."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ovseg.data.dataset import SEMANTIC
from ovseg.errors import InputError
from ovseg.evaluation.metrics.semantic import SemanticRecord
from ovseg.evaluation.runs.folder import Kept
from ovseg.evaluation.runs.image_log import ImageRecord, Log, close_log
from ovseg.evaluation.runs.job import LABELS, Opened
from ovseg.evaluation.runs.plan import read_plan
from ovseg.evaluation.runs.sources import Source
from ovseg.evaluation.runs.worker import look
from ovseg.jobs.identity import made_by
from ovseg.system.values import changes, flat, some

NAMED = 8
"""So many things that could not be compared are named."""
MADE_DIFFERENTLY = ("no_class_as", "asked")
"""Of what makes numbers that which earlier versions did not do: a run without the key was made without it."""


def check_adoptable(opened: Opened, held: Kept, identity: dict[str, Any]) -> list[str]:
    """Compare what is known of a run with what is asked for now.

    Weights, settings, words and device are those of its log, the rest is what ``run.json`` has; of the ground truth the
    pixels of each class in each measured image are counted anew.

    Args:
        opened: The job, with `Opened.made_by`.
        held: What its folder holds.
        identity: What it would be made of now.

    Returns:
        What differs, in words; empty where nothing does.
    """
    known = _known(opened, held)
    keys = [key for key in {**known, **dict.fromkeys(MADE_DIFFERENTLY)} if key != "settings"]
    found = changes({key: known.get(key) for key in keys}, {key: identity.get(key) for key in keys})
    pairs, _ = _paired(known.get("settings", {}), identity["settings"])
    found += changes({old: was for old, (was, _) in pairs.items()}, {old: is_ for old, (_, is_) in pairs.items()})
    values, names = held.values, [PurePosixPath(name).name for name in opened.evaluated]
    if "vocabulary_hash" in values and values["vocabulary_hash"] != opened.dataset.classes.hash:
        found.append("classes are others")
    old = [Path(name).name for name in held.old_names or list(held.contents[0].images if held.contents else names)]
    if old != names or any(record.index >= len(names) for record in held.log.images.values()):
        found.append(f"images: were {len(old)}, are {len(names)}, or of other names")
        return found
    if other := _other_truth(opened, held):
        found.append(f"labels: {len(other)} have other pixels of their classes ({', '.join(other[:3])})")
    return found


def adopt(opened: Opened, held: Kept, source: Source | None) -> list[str]:
    """Bring a run that was compared to the form of this version.

    Labels are called by the path of their image; images whose labels another one may have replaced, for they shared a
    stem, lose their record and are evaluated again.

    Returns:
        What the result has to say of it.
    """
    folder = opened.job.folder
    stems = Counter(PurePosixPath(name).stem.casefold() for name in opened.evaluated)
    images: dict[int, ImageRecord] = {}
    for record in held.log.good:
        name, labels = opened.evaluated[record.index], opened.label_files[record.index]
        old = folder / LABELS / (record.labels or f"{PurePosixPath(name).stem}.png")
        if not record.labels and stems[PurePosixPath(name).stem.casefold()] > 1:
            old.unlink(missing_ok=True)
        elif old.is_file():
            (folder / LABELS / labels).parent.mkdir(parents=True, exist_ok=True)
            old.replace(folder / LABELS / labels)
            images[record.index] = dataclasses.replace(record, name=name, labels=labels)
    own = {} if source is None else source.description
    sources = [{**own, "versions": one.get("versions", {})} for one in held.log.sources]
    close_log(folder, Log(sources or [own], images))
    return [
        f"{len(images)} images were taken over from a run that did not keep what made it; not compared: "
        f"{some(_unknown(opened, held), NAMED)}"
    ]


def _known(opened: Opened, held: Kept) -> dict[str, Any]:
    """Return what is known of a run, by the keys of the identity."""
    known = made_by(held.log.source) if held.log.sources else {}
    if "identity" in held.values:
        return {**held.values["identity"], **known}
    asked = opened.request(read_plan(opened.job.folder))
    known |= {key: asked[key] for key in ("tasks", "novel", "boundary", "distractors", "seed")}
    return known | {key: held.values[key] for key in ("condition",) if key in held.values}


def _unknown(opened: Opened, held: Kept) -> list[str]:
    known, now = _known(opened, held), opened.made_by
    found = [] if held.contents else ["contents of images", "places of labels"]
    found += [key for key in ("ovseg", "measures", "condition", *now) if key not in known]
    return found + _paired(known.get("settings", {}), now.get("settings", {}))[1]


def _paired(old: dict[str, Any], new: dict[str, Any]) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """Pair settings by their dotted names, or by the last part of these where they have moved since.

    Returns:
        Old and new value by the old name, and the names that only one side has.
    """
    before, now = flat(old, "settings."), flat(new, "settings.")
    ends: dict[str, list[str]] = {}
    for key in now.keys() - before.keys():
        ends.setdefault(key.rpartition(".")[2], []).append(key)
    moved = {key: found[0] for key in before if len(found := ends.get(key.rpartition(".")[2], [])) == 1}
    names = {key: key if key in now else moved.get(key, "") for key in before}
    pairs = {old: (before[old], now[name]) for old, name in names.items() if name}
    alone = [old for old, name in names.items() if not name] + [key for key in now if key not in names.values()]
    return pairs, alone


def _other_truth(opened: Opened, held: Kept) -> list[str]:
    """Return the images whose ground truth has not the pixels of each class that were counted."""
    found, count = [], len(opened.dataset.classes)
    for record in held.log.good:
        if SEMANTIC not in record.measured:
            continue
        try:
            truth = look(opened.dataset, opened.dataset.records[record.index], [SEMANTIC]).truth.semantic()
            same = tuple(truth.shape) == record.size
            counted = SemanticRecord.from_json(record.measured[SEMANTIC]).table(count)[1]
            same = same and bool((np.bincount(truth[truth >= 0], minlength=count) == counted).all())
        except InputError:
            same = False
        if not same:
            found.append(opened.evaluated[record.index])
    return found
