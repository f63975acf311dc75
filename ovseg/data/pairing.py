"""Which label image belongs to which image of an own folder: by their paths below images/ and labels/.

The label of ``images/site0/a.jpg`` is ``labels/site0/a.png``, or as `ovseg segment` writes it ``a.labels.png``. Where
images of one folder share a stem, labels are called like the whole file: ``a.jpg.png``, ``a.jpg.labels.png``.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ovseg.data.images import IMAGE_SUFFIXES
from ovseg.data.matching import counted, listed
from ovseg.errors import InputError

ENDINGS = (".labels.png", ".png")
BESIDE = (".overlay.png", ".panoptic.png")
"""Pictures that `ovseg segment` writes beside labels, and which are none."""
_LOOKED_AT = 20  # images without a label in which the pattern of other names is looked for


def read_label_pairs(images: Path, labels: Path) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Pair the images below a folder with the label images below another.

    Returns:
        Detectron2's dicts of the pairs in the order of their names; a line for each file without its partner and for
        those that claim the same one, which are left out; and notes on files that are neither.

    Raises:
        InputError: A folder is missing or cannot be read.
    """
    pictures, notes = _list_files(images, IMAGE_SUFFIXES, "no images")
    masks, more = _list_files(labels, frozenset({".png"}), "no labels (which are PNG)")
    by_key: dict[str, list[str]] = defaultdict(list)
    for mask in masks:
        by_key[_key(mask)].append(mask)
    own = {name: by_key.get(name) or by_key.get(_stem(name), []) for name in pictures}
    claims: dict[str, list[str]] = defaultdict(list)
    for name, found in own.items():
        for mask in found:
            claims[mask].append(name)
    records = [
        {"file_name": str(images / name), "image_id": name, "sem_seg_file_name": str(labels / found[0])}
        for name, found in own.items()
        if len(found) == 1 and len(claims[found[0]]) == 1
    ]
    problems = [
        f"{len(names)} images ({listed(names)} in '{images}') claim the label '{labels / mask}', and none is used; "
        f"expected a label for each, called like the whole file: {', '.join(f'{name}.png' for name in names[:2])}"
        for mask, names in claims.items()
        if len(names) > 1
    ]
    problems += [
        f"image '{images / name}' has {len(found)} labels ({listed(found)} in '{labels}') and is not used; expected one"
        for name, found in own.items()
        if len(found) > 1
    ]
    lonely = [name for name in pictures if not own[name]]
    problems += _lonely(images, labels, lonely, [mask for mask in masks if mask not in claims])
    return records, problems, [*notes, *more]


def _key(mask: str) -> str:
    """Return what a label is called after: the path of an image, with its suffix or without."""
    ending = next(ending for ending in ENDINGS if mask.lower().endswith(ending))
    return mask[: -len(ending)]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _list_files(folder: Path, suffixes: frozenset[str], what: str) -> tuple[list[str], list[str]]:
    """Return the files below a folder by their paths below it, sorted, and a note on those of other suffixes.

    Hidden files and folders are left out.

    Raises:
        InputError: The folder is missing, or a part of it cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"folder '{folder}' does not exist; expected images/ + labels/ + classes.txt")

    def fail(error: OSError) -> None:
        raise InputError(f"folder '{error.filename}' cannot be read ({error.strerror}); check its permissions")

    found, skipped, seen = list[str](), list[str](), set[str]()
    for place, folders, files in os.walk(folder, onerror=fail, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link to where we were; it might never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in (name for name in files if not name.startswith(".")):
            fits = Path(name).suffix.lower() in suffixes and not name.lower().endswith(BESIDE)
            (found if fits else skipped).append((Path(place) / name).relative_to(folder).as_posix())
    told = f"{counted(len(skipped), 'file', 'files')} below '{folder}' left out as {what}: {listed(sorted(skipped))}"
    return sorted(found), [told] if skipped else []


def _lonely(images: Path, labels: Path, pictures: Sequence[str], masks: Sequence[str]) -> list[str]:
    """Return a line for each file without a partner; one for all labels whose names follow another pattern."""
    problems = []
    before, behind = _pattern(pictures, masks)
    if before or behind:
        keys = {_key(mask): mask for mask in masks}
        called = {name: keys[key] for name in pictures if (key := _wrapped(name, before, behind)) in keys}
        pictures = [name for name in pictures if name not in called]
        masks = sorted(set(masks) - set(called.values()))
        problems.append(
            f"{counted(len(called), 'label is', 'labels are')} called {before}STEM{behind}.png in '{labels}' "
            f"({listed((f'{mask} for {name}' for name, mask in called.items()), 3)}); expected STEM.png, rename them"
        )
    problems += [f"image '{images / name}' has no label; expected '{labels / _stem(name)}.png'" for name in pictures]
    problems += [f"label '{labels / mask}' has no image; expected '{images / _key(mask)}.jpg'" for mask in masks]
    return problems


def _wrapped(name: str, before: str, behind: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(f"{before}{path.stem}{behind}"))


def _pattern(pictures: Sequence[str], masks: Sequence[str]) -> tuple[str, str]:
    """Return what most labels have before and behind the stem of their image; nothing where there is no rule."""
    keys: dict[PurePosixPath, list[str]] = defaultdict(list)
    for mask in masks:
        path = PurePosixPath(_key(mask))
        keys[path.parent].append(path.name)
    found: Counter[tuple[str, str]] = Counter()
    for picture in map(PurePosixPath, pictures[:_LOOKED_AT]):
        found.update({key.partition(picture.stem)[::2] for key in keys[picture.parent] if picture.stem in key})
    best = max(found.items(), key=lambda item: item[1], default=(("", ""), 0))
    return best[0] if best[1] > 1 or len(pictures) == len(masks) == 1 else ("", "")
