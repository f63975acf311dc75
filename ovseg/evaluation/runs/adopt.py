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
from ovseg.evaluation.runs.image_log import ImageRecord, Log, close_log, made_by
from ovseg.evaluation.runs.job import LABELS, Opened
from ovseg.evaluation.runs.sources import Source
from ovseg.evaluation.runs.worker import look
from ovseg.system.values import changes


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
    known = _known(held)
    now = {key: identity[key] for key in known if key != "settings"}
    found = changes({key: value for key, value in known.items() if key != "settings"}, now)
    settings = known.get("settings", {})
    found += changes(settings, {key: identity["settings"].get(key) for key in settings}, "settings.")
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
        if old.is_file() and (record.labels or stems[PurePosixPath(name).stem.casefold()] == 1):
            (folder / LABELS / labels).parent.mkdir(parents=True, exist_ok=True)
            old.replace(folder / LABELS / labels)
            images[record.index] = dataclasses.replace(record, name=name, labels=labels)
    own = {} if source is None else source.description
    sources = [{**own, "versions": one.get("versions", {})} for one in held.log.sources]
    close_log(folder, Log(sources or [own], images))
    return [
        f"{len(images)} images were taken over from a run that did not keep what made it; not compared: "
        f"{', '.join(_unknown(held, opened.made_by))}"
    ]


def _known(held: Kept) -> dict[str, Any]:
    """Return what is known of a run, by the keys of the identity."""
    asked, made = held.values.get("identity", {}), made_by(held.log.source)
    values = held.values
    if not asked and values:
        asked = {key: values[key] for key in ("boundary", "distractors", "seed", "condition") if key in values}
    known = {**asked, **made}
    return known if held.log.sources else {key: value for key, value in known.items() if key != "settings"}


def _unknown(held: Kept, now: dict[str, Any]) -> list[str]:
    known = _known(held)
    found = [] if held.contents else ["contents of images", "places of labels"]
    found += [key for key in ("measures", "tasks", "novel", *now) if key not in known]
    lacking = [key for key in now.get("settings", {}) if key not in known.get("settings", {})]
    return found + [f"settings.{key}" for key in lacking]


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
