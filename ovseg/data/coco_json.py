"""COCO's JSON files: panoptic (COCO, Scenes) and instances (COCO, own data of most annotation tools).

Such files come from everywhere, so that each part is looked at before it is used. What cannot be used is left out and
named in one line, with what mends it; the rest goes on. The pixels of an object or segment that is left out are void,
never of another class, unless another object is outlined there. An id that several entries share finds none of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.coco_entries import Index, dicts, flag, id_key
from ovseg.data.coco_images import Images, find_folder
from ovseg.data.dataset import INSTANCE, PANOPTIC, Dataset, identity_lookup
from ovseg.data.outlines import sound_outline
from ovseg.errors import InputError
from ovseg.vocabulary import Vocabulary
from ovseg.vocabulary.names import fold

LISTS = ("images", "annotations", "categories")


def read_coco_json(
    path: Path,
    images: Path,
    masks: Path | None = None,
    name: str = "",
    classes: tuple[Vocabulary, Sequence[int]] | None = None,
    subset: bool = False,
    also: Sequence[Path] = (),
) -> Dataset:
    """Read a COCO file; whether it is panoptic is seen by its annotations.

    Args:
        path: The JSON file.
        images: Folder of the images.
        masks: Folder of the panoptic PNGs; not needed for instances.
        name: Of the data set; the file's path without it.
        classes: In place of the names in the file, with the id of the category that each is for.
        subset: Take only the images whose files are there; without it each missing one is a problem.
        also: Further folders that may be that of the images; the first that has the first image is taken.

    Returns:
        The data set; its `problems` name what was left out, its `notes` what was read otherwise than it is spelled.

    Raises:
        InputError: It is missing, or no such file; or its categories are not those of `classes`.
        VocabularyError: The names of its categories cannot be used.
    """
    data = _load(path)
    problems: list[str] = []
    notes: list[str] = []
    folder = find_folder(data["images"], (images, *also))
    found = _File(path, data, Images(path, folder, data["images"], problems, notes, subset), problems, notes)
    panoptic = any(isinstance(one, dict) and "segments_info" in one for one in data["annotations"])
    vocabulary = found.categories() if classes is None else found.known_categories(*classes)
    if panoptic:
        found.panoptic(masks or images)
    else:
        found.instances()
    records = found.records(panoptic)
    count = len(vocabulary)
    return Dataset(
        name or str(path),
        vocabulary,
        PANOPTIC if panoptic else INSTANCE,
        records,
        identity_lookup(count),
        np.arange(count, dtype=np.int32),
        tuple(found.problems),
        notes=tuple(found.notes),
        root=found.images.root,
    )


def _load(path: Path) -> dict[str, Any]:
    """Return the content of a file that has the three lists.

    Raises:
        InputError: It has not.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(data, dict):
            raise ValueError(f"it is a {type(data).__name__}")
        for key in LISTS:
            if not isinstance(data[key], list):
                raise ValueError(f"'{key}' is a {type(data[key]).__name__}, no list")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        reason = f"key {error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())[:120]
        raise InputError(
            f"'{path}' is no COCO file ({reason}); expected images, annotations (with segmentation or segments_info) "
            "and categories"
        ) from error
    return data


class _File:
    """A file that is being read: what was found in it so far."""

    def __init__(self, path: Path, data: dict[str, Any], images: Images, problems: list[str], notes: list[str]) -> None:
        self.path, self.data, self.images = path, data, images
        self.problems, self.notes = problems, notes
        self._places: Index[int] = Index(())
        self._shared: dict[
            int | str | None, tuple[list[str], int]
        ] = {}  # names of classes of one id, how often it is used

    def categories(self) -> Vocabulary:
        """Read the classes; categories of one name are one class.

        Raises:
            InputError: There is none.
            VocabularyError: A name cannot be used.
        """
        entries: list[dict[str, Any]] = []
        names: dict[str, int] = {}
        pairs: dict[Any, int] = {}
        for _, one in dicts(self.data["categories"], f"'{self.path.name}': category", self.problems):
            if reason := _unfit(one):
                self._say(f"category {one.get('name', one.get('id'))!r} is left out: {reason}")
                continue
            place = names.setdefault(fold(str(one["name"])), len(entries))
            if place == len(entries):
                entries.append(one)
            else:
                numbers = f"ids {entries[place]['id']!r} and {one['id']!r}"
                self._say(f"two categories ({numbers}) are called '{one['name']}'; read as one class, delete one")
            pairs[type(one["id"]), one["id"], place] = place
        if not entries:
            first = f" ({self.problems[-1]})" if self.problems else ""
            raise InputError(f"'{self.path}' is no COCO file: no category can be used{first}")
        self._index([(number, place) for (_, number, place) in pairs], [one["name"] for one in entries])
        return Vocabulary.parse(self._class_list(entries))

    def known_categories(self, classes: Vocabulary, numbers: Sequence[int]) -> Vocabulary:
        """Take classes whose categories are known by id.

        Raises:
            InputError: The file lists others.
        """
        listed = [one.get("id") if isinstance(one, dict) else None for one in self.data["categories"]]
        if sorted(map(str, listed)) != sorted(map(str, numbers)):
            raise InputError(
                f"'{self.path}' lists {len(listed)} categories that are not the {len(numbers)} of this data set; fetch "
                "the published file again"
            )
        self._index([(number, place) for place, number in enumerate(numbers)], classes.names)
        return classes

    def _index(self, pairs: list[tuple[Any, int]], names: list[Any]) -> None:
        self._places = Index(pairs)
        for key in {id_key(number) for number, _ in pairs if self._places.shared(number)}:
            self._shared[key] = [f"'{names[place]}'" for number, place in pairs if id_key(number) == key], 0

    def _class_list(self, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep of COCO's categories what a vocabulary knows; synonyms that repeat a name are dropped."""
        taken = {fold(str(one["name"])) for one in entries}
        dropped, found = [], []
        for one in entries:
            given = one.get("synonyms")
            own = []
            for word in given if isinstance(given, list) else ():
                if not isinstance(word, str) or fold(word) in taken:
                    dropped.append(str(word))
                    continue
                taken.add(fold(word))
                own.append(word)
            thing = flag(one.get("isthing", 1))
            if thing is None:
                self._say(f"category '{one['name']}' has isthing {one['isthing']!r}; expected 0 or 1, taken as a thing")
            found.append({"name": one["name"], "synonyms": own, "is_thing": thing is not False})
        if dropped:
            self.notes.append(
                f"{len(dropped)} synonyms in '{self.path.name}' repeat a name or a synonym of another class and are "
                f"dropped ({', '.join(dropped[:3])}{', ...' if dropped[3:] else ''})"
            )
        return found

    def instances(self) -> None:
        """Read outlines into the records of their images."""
        seen: dict[Any, dict[str, Any]] = {}
        for place, one in dicts(self.data["annotations"], f"'{self.path.name}': annotation", self.problems):
            what = self._called(one, place)
            owner, category = self._owners(one, what)
            if owner is None or category is None or self._again(one, what, seen):
                continue
            size = self.images.size(owner)
            outline = one.get("segmentation")
            if size is not None:
                try:
                    outline = self._parts(sound_outline(outline, size), outline, what, owner)
                except InputError as error:
                    self._leave(f"{what} of '{self.images.named(owner)}'", str(error))
                    continue
            owner.setdefault("annotations", []).append(
                {**self._values(one, what), "category_id": category, "segmentation": outline}
            )

    def panoptic(self, masks: Path) -> None:
        """Read the segments of each picture into the record of its image."""
        for place, one in dicts(self.data["annotations"], f"'{self.path.name}': annotation", self.problems):
            owner = self.images.index.find(one.get("image_id"))
            what = f"annotation number {place + 1}" if owner is None else f"annotation of '{self.images.named(owner)}'"
            if owner is None:
                self._orphan(one, what)
            elif not (isinstance(one.get("file_name"), str) and one["file_name"] and "\0" not in one["file_name"]):
                self._leave(what, f"its file_name is {one.get('file_name')!r}; name its PNG")
            elif not isinstance(one.get("segments_info"), list):
                self._leave(what, "it has no list segments_info; expected COCO's panoptic format")
            elif "segments_info" in owner:
                self._leave(what, "the image has one before it; expected one for each image")
            else:
                found, void = self._segments(one["segments_info"], self.images.named(owner))
                owner |= {"pan_seg_file_name": str(masks / one["file_name"]), "segments_info": found, "void_ids": void}

    def _segments(self, infos: list[Any], image: str) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the segments of an image that can be used, and the ids of the others, whose pixels are void."""
        found: dict[int, dict[str, Any]] = {}
        void: list[int] = []
        for _, info in dicts(infos, f"'{self.path.name}': segment of '{image}'", self.problems):
            number, category = id_key(info.get("id")), self._places.find(info.get("category_id"))
            what = f"segment {info.get('id')!r} of '{image}'"
            if not isinstance(number, int) or not 0 < number < 1 << 24:
                self._leave(what, "its id is no colour (R + 256 G + 65536 B, and 0 is void); mend it")
            elif category is None:
                self._no_class(info, what)
                void.append(number)
            elif number in found and found[number]["category_id"] != category:
                self._leave(what, "it is listed with several categories; its pixels are void, mend it")
                void.append(number)
            elif number in found:
                self._say(f"{what} is listed twice; read once, delete one")
            else:
                found[number] = {**self._values(info, what), "id": number, "category_id": category}
        return [info for number, info in found.items() if number not in void], void

    def records(self, panoptic: bool) -> list[dict[str, Any]]:
        """Return the records of the images; with panoptic annotations those that have one.

        Raises:
            InputError: There is none.
        """
        found = self.images.records
        if panoptic:
            without = [one for one in found if "segments_info" not in one]
            if without:
                part = f"{len(without)} of {len(found)}"
                self.notes.append(f"{part} images in '{self.path.name}' have no annotation and are left out")
            found = [one for one in found if "segments_info" in one]
        else:
            for one in found:
                one.setdefault("annotations", [])
        if not found:
            first = f" ({self.problems[0]})" if self.problems else ""
            raise InputError(
                f"'{self.path}' annotates no image that can be used; expected at least one entry in images with its "
                f"annotations{first}"
            )
        for number, (names, count) in self._shared.items():
            called = " and ".join(names)
            self._say(f"category id {number!r} is that of {called}; {count} with it are left out, give each its own id")
        for index, what in ((self.images.index, "ids of images"), (self._places, "ids of categories")):
            for line in index.respelling(what):
                self._say(line)
        return found

    def _owners(self, one: dict[str, Any], what: str) -> tuple[dict[str, Any] | None, int | None]:
        """Return the record and the class of an annotation."""
        owner = self.images.index.find(one.get("image_id"))
        category = self._places.find(one.get("category_id"))
        if owner is None:
            self._orphan(one, what)
        elif category is None:
            self._no_class(one, f"{what} of '{self.images.named(owner)}'")
        return owner, category

    def _orphan(self, one: dict[str, Any], what: str) -> None:
        number = one.get("image_id")
        if id_key(number) not in self.images.dropped:  # of these one line is enough
            reason = "several entries of images have" if self.images.index.shared(number) else "images does not list"
            self._leave(what, f"it belongs to image {number!r}, which {reason}; add the image or delete it")

    def _no_class(self, one: dict[str, Any], what: str) -> None:
        """Count what is of several classes, and name what is of none."""
        number = one.get("category_id")
        if self._places.shared(number):
            names, count = self._shared[id_key(number)]
            self._shared[id_key(number)] = names, count + 1
        else:
            self._leave(what, f"it has category {number!r}, which categories does not list; mend either")

    def _again(self, one: dict[str, Any], what: str, seen: dict[Any, dict[str, Any]]) -> bool:
        """Look whether an annotation was there before, word for word; two that share an id are both read."""
        number = id_key(one.get("id"))
        if number is None or number not in seen:
            seen[number] = one
            return False
        same = one == seen[number]
        mend = "read once, delete one" if same else "both are read, give each its own id"
        self._say(f"{what} is there twice; {mend}")
        return same

    def _parts(self, sound: Any, given: Any, what: str, owner: dict[str, Any]) -> Any:
        """Say what was left out of an outline; return the rest."""
        lost = len(given) - len(sound) if isinstance(sound, list) else 0
        if lost:
            where = f"{what} of '{self.images.named(owner)}'"
            self._say(f"{lost} of {len(given)} polygons of {where} are left out: they have fewer than three corners")
        return sound

    def _values(self, one: dict[str, Any], what: str) -> dict[str, Any]:
        """Return an annotation or segment with its crowd flag as 0 or 1, and without an area that is none."""
        crowd = flag(one.get("iscrowd"))
        if crowd is None:
            self._say(f"{what} has iscrowd {one['iscrowd']!r}; expected 0 or 1, taken as 0")
        found = {**one, "iscrowd": int(bool(crowd))}
        area = found.get("area")
        if "area" in found and not (isinstance(area, (int, float)) and 0 <= area < float("inf")):
            self._say(f"{what} has area {area!r}; expected a number of pixels, that of its outline is taken")
            del found["area"]
        return found

    def _called(self, one: dict[str, Any], place: int) -> str:
        return f"annotation {one['id']}" if id_key(one.get("id")) is not None else f"annotation number {place + 1}"

    def _leave(self, what: str, reason: str) -> None:
        self._say(f"{what} is left out: {reason}")

    def _say(self, line: str) -> None:
        self.problems.append(f"'{self.path.name}': {' '.join(line.split())}")


def _unfit(category: dict[str, Any]) -> str:
    """Say why a category can be no class; empty when it can."""
    missing = next((key for key in ("id", "name") if category.get(key) is None), "")
    if missing:
        return f"key '{missing}' is missing; give it an id and a name"
    return "" if id_key(category["id"]) is not None else f"its id is {category['id']!r}; give it a number"
