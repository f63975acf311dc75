"""Labels that were saved before: files by the path of their image, classes by name.

Of the image ``site0/0001.jpg`` the prediction is looked for in this order:

1. ``site0/0001``, the name that `ovseg.system.paths.relative_names` gives it; so ``ovseg eval`` and ``ovseg segment``
   write, with the suffix (``im0.jpg``) where another image would have the same name without;
2. ``site0/0001.jpg``, then ``site0/0001``;
3. ``0001.jpg``, then ``0001``, for programs that write all into one folder; the result says so;

each with the endings of `SUFFIXES`. A file that could be of two images is taken for none of them, except by 1.

``.npz`` is what `Segmentation.save` writes and names its classes. ``.labels.png`` or ``.png`` is a picture of class ids
(8 or 16 bits, 65535 no class), which count in the class list beside it: the ``.json`` of its own name that ``ovseg
segment`` writes, else ``classes.json`` or ``classes.txt`` at the top of the folder. Without a list they count in the
vocabulary of the evaluation. A list may lack the class of the data set that stands for anything else: pixels of no
class are that class then.
"""

from __future__ import annotations

import functools
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np

from ovseg.data.contents import Contents, contents_of_files
from ovseg.data.dataset import VOID, read_label_image
from ovseg.data.images import LoadedImage
from ovseg.errors import InputError
from ovseg.evaluation.runs.measures import Found
from ovseg.evaluation.runs.sources import from_segmentation
from ovseg.result.formats.labels import read_label_png
from ovseg.result.segmentation import Segmentation
from ovseg.system.paths import relative_names
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.names import fold

SUFFIXES = (".npz", ".labels.png", ".png")
"""Of saved predictions, in the order in which they are looked for."""
CLASS_LISTS = ("classes.json", "classes.txt")
PERMUTED = "prediction lists its classes in another order"
"""How the note of an image starts whose prediction was brought to the vocabulary of the evaluation."""
NOT_LISTED = "prediction lists no class"
"""How the note of an image starts whose pixels without a class count as the class that stands for anything else."""


class SavedSource:
    """Reads predictions of a folder; see the top of this module."""

    def __init__(self, folder: Path, classes: Vocabulary, names: Sequence[str], rest: int = VOID) -> None:
        """Find the prediction of each image.

        Args:
            folder: Of the predictions.
            classes: Of the evaluation.
            names: Of all images of the data set, evaluated or not: a stem must be alone among them.
            rest: Class that stands for anything else, see `ovseg.data.dataset.Dataset.rest_class`.

        Raises:
            InputError: The folder does not exist, or a list of classes in it cannot be read.
        """
        if not folder.is_dir():
            raise InputError(f"folder of predictions '{folder}' does not exist; expected files STEM{SUFFIXES[1]} in it")
        self.folder, self.classes, self.rest = folder, classes, rest
        present = {
            (Path(place) / file).relative_to(folder).as_posix() for place, _, files in os.walk(folder) for file in files
        }
        self._found, self._shared = _assign(names, present)
        self._list = next((folder / name for name in CLASS_LISTS if name in present), None)
        self._places = functools.cache(self._read_list)
        notes = []
        if flat := [name for name, (_, level) in self._found.items() if level and "/" in name]:
            notes.append(f"{len(flat)} predictions were found by the file name alone, without folders ({flat[0]})")
        unknown = {"weights_hash": "", "settings": {}, "background": "", "templates": "", "texts": ""}
        self.description = {"model": str(folder), **unknown, "notes": notes, "device": "", "dtype": ""}
        if rest >= 0:
            self.description["no_class_as"] = f"{classes[rest].name}, where a prediction does not list it"

    def check(self, evaluated: Sequence[str]) -> None:
        """Refuse a file that could be the prediction of two images.

        Raises:
            InputError: There is one for one of these images; the line names both.
        """
        for name in evaluated:
            if name in self._shared:
                file, others = self._shared[name]
                raise InputError(
                    f"prediction '{self.folder / file}' could be of '{name}' and of '{others[0]}'; expected one for "
                    f"each, called by the path below the images: '{name}.png'"
                )

    def contents(self, evaluated: Sequence[str], known: Contents | None) -> Contents:
        """Look at the predictions of these images, see `contents_of_files`."""
        return contents_of_files(str(self.folder), self.classes, {name: self._files(name) for name in evaluated}, known)

    def __call__(self, name: str, image: LoadedImage, ids: np.ndarray, present: np.ndarray) -> Found:
        """Read the prediction of an image; see `Source`."""
        if name not in self._found:
            expected = self.folder / PurePosixPath(name).with_suffix(SUFFIXES[1])
            raise InputError(f"prediction '{expected}' is missing; make it, or leave --limit")
        path = self.folder / self._found[name][0]
        if path.suffix == ".npz":
            result = Segmentation.load(path)
            places = self._match(result.classes.names, path)
            found = from_segmentation(result, places, 0.0, self._of_none(places))
        else:
            places = self._places(self._list_of(path))
            found = Found(_read_png(path, places, self._of_none(places)))
        notes = []
        if self._of_none(places) >= 0:
            notes.append(
                f"{NOT_LISTED} '{self.classes[self.rest].name}': its pixels without a class count as that class"
            )
        if (np.diff(places) < 0).any():
            notes.append(f"{PERMUTED} ({self.classes[int(places[0])].name}, ...); they were matched by name")
        return replace(found, notes=(*found.notes, *notes))

    def _of_none(self, places: np.ndarray) -> int:
        """Return the class of pixels without one, for a list of classes at these places; -1 for none."""
        return VOID if self.rest in places else self.rest

    def _files(self, name: str) -> list[Path]:
        """Return the prediction of an image and the list of its classes, if there are."""
        if name not in self._found:
            return []
        path = self.folder / self._found[name][0]
        listed = None if path.suffix == ".npz" else self._list_of(path)
        return [path] if listed is None else [path, listed]

    def _list_of(self, path: Path) -> Path | None:
        for suffix in SUFFIXES[1:]:
            own = path.with_name(f"{path.name.removesuffix(suffix)}.json")
            if path.name.endswith(suffix) and own.is_file() and own.name != CLASS_LISTS[0]:
                return own
        return self._list

    def _read_list(self, path: Path | None) -> np.ndarray:
        """Return for each class of a list its place in the evaluation's."""
        if path is None:
            return np.arange(len(self.classes))
        if path.name in CLASS_LISTS:
            return self._match(Vocabulary.parse(path).names, path)
        try:
            names = [str(one["name"]) for one in json.loads(path.read_text(encoding="utf-8"))["classes"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}' beside a prediction does not list its classes; expected what `ovseg segment` writes, or "
                "another name"
            ) from error
        return self._match(names, path)

    def _match(self, names: Sequence[str], path: Path) -> np.ndarray:
        """Return (K,) integers, the place of each class in the evaluation's, by name or synonym."""
        words = {fold(word): place for place, entry in enumerate(self.classes) for word in entry.names}
        places = [words.get(fold(name), -1) for name in names]
        every = list(range(len(self.classes)))
        if sorted(places) not in (every, [place for place in every if place != self.rest]):
            other = next((n for n, place in zip(names, places, strict=True) if place < 0), names[-1])
            raise InputError(
                f"prediction '{path}' has {len(names)} other classes ('{other}'); expected the {len(self.classes)} of "
                f"the evaluation ({self.classes.names[0]}, ...)"
            )
        return np.array(places)


def _assign(
    names: Sequence[str], present: set[str]
) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, list[str]]]]:
    """Find the file of each image.

    Returns:
        By image its file and whether folders were left out (1) or not (0), and, by image, a file that could be of it
        and the other images that it could be of.
    """
    own = dict(zip(names, relative_names(names, "."), strict=True))
    keys = {name: _keys(name) for name in own}
    claims = defaultdict(set)
    for name, levels in keys.items():
        for key in levels:
            claims[key].add(name)
    found: dict[str, tuple[str, int]] = {}
    shared: dict[str, tuple[str, list[str]]] = {}
    for name, stem in own.items():
        for level, key in enumerate((stem, *keys[name])):
            file = next((key + suffix for suffix in SUFFIXES if key + suffix in present), None)
            if file is None:
                continue
            if level == 0 or len(claims[key]) == 1:
                found[name] = file, int(level > 2)
            else:
                shared[name] = file, sorted(claims[key] - {name})
            break
    return found, shared


def _keys(name: str) -> tuple[str, str, str, str]:
    path = PurePosixPath(name)
    return name, str(path.with_suffix("")), path.name, path.stem


def _read_png(path: Path, places: np.ndarray, none: int) -> np.ndarray:
    """Read a picture of ids and bring them to the classes of the evaluation; `none` is that of pixels without one."""
    values, bits = read_label_image(path)
    labels = read_label_png(path) if bits == 16 else values.astype(np.int32)
    if labels.max(initial=-1) >= len(places):
        raise InputError(
            f"prediction '{path}' holds the value {labels.max()}; expected 0 to {len(places) - 1}, or 65535 for no "
            "class"
        )
    return np.append(places, none)[labels].astype(np.int32)
