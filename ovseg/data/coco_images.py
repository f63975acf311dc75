"""The images of a COCO file: where they are, how large, and which annotations are theirs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ovseg.data.coco_entries import Index, dicts, id_key, whole

TURNED = (5, 6, 7, 8)
"""Values of EXIF's orientation by which width and height change places."""


class Images:
    """Entries of ``images`` as records, one for each file.

    Attributes:
        records: Detectron2's dicts without annotations, in the order of the file.
        index: Records by the ids of their entries.
        dropped: Keys (`id_key`) of ids whose entries were left out.
        root: Folder of the images, see `ovseg.data.dataset.Dataset`.
    """

    def __init__(
        self, path: Path, folder: Path, entries: list[Any], problems: list[str], notes: list[str], subset: bool
    ) -> None:
        """Read the entries.

        Args:
            path: The JSON file.
            folder: That their names are below.
            entries: What ``images`` holds.
            problems: Gets a line for each entry that cannot be used.
            notes: Gets lines on what was read otherwise than it is spelled.
            subset: Leave out images whose files are not there, without a problem.
        """
        self._path, self._folder, self._problems = path, folder, problems
        self.records: list[dict[str, Any]] = []
        self.dropped: set[int | str | None] = set()
        self._names: dict[int, str] = {}
        self._sizes: dict[int, tuple[int, int] | None] = {}
        pairs = self._read(entries, subset)
        self.index = Index(pairs)
        self.root = self._root()
        outside = [record["file_name"] for record in self.records if not _below(record["file_name"], self._home())]
        if outside:
            example = f"'{outside[0]}'{', ...' if outside[1:] else ''}"
            notes.append(f"{len(outside)} images of '{path.name}' lie outside of '{self._home()}' ({example})")

    def named(self, record: dict[str, Any]) -> str:
        """Return how the file calls an image."""
        return self._names[id(record)]

    def size(self, record: dict[str, Any]) -> tuple[int, int] | None:
        """Return height and width of an image: what the file says, else what the picture does; None without either."""
        if "height" in record:
            return record["height"], record["width"]
        if id(record) not in self._sizes:
            self._sizes[id(record)] = picture_size(record["file_name"])
        return self._sizes[id(record)]

    def _read(self, entries: list[Any], subset: bool) -> list[tuple[Any, dict[str, Any]]]:
        usable = [one for one in dicts(entries, f"'{self._path.name}': image", self._problems) if self._usable(*one)]
        shared = self._shared([one for _, one in usable])
        by_file: dict[str, dict[str, Any]] = {}
        pairs: list[tuple[Any, dict[str, Any]]] = []
        for _, one in usable:
            number, name = one["id"], _name(one)
            if (type(number), number) in shared:
                continue
            file = str(self._file(name))
            there = os.path.isfile(file)
            if subset and not there:
                self.dropped.add(id_key(number))
                continue
            if file in by_file:
                self._say(
                    f"image '{name}' is listed more than once; read once, with the annotations of all its entries"
                )
            else:
                by_file[file] = record = {"file_name": file, "image_id": number, **self._size(one, name)}
                self.records.append(record)
                self._names[id(record)] = name
                if not there:
                    self._problems.append(f"image '{file}' is missing, '{self._path.name}' lists it")
            pairs.append((number, by_file[file]))
        return list({(type(number), number, id(record)): (number, record) for number, record in pairs}.values())

    def _usable(self, place: int, one: dict[str, Any]) -> bool:
        """Look whether an entry has an id and the name of a file."""
        name = _name(one)
        reason = "" if name else f"its file_name is {one.get('file_name')!r}; name its file"
        if id_key(one.get("id")) is None:
            reason = f"its id is {one.get('id')!r}; give it a number"
        if reason:
            self._say(f"image {repr(name) if name else f'number {place + 1}'} is left out: {reason}")
            if id_key(one.get("id")) is not None:
                self.dropped.add(id_key(one["id"]))
        return not reason

    def _shared(self, entries: list[dict[str, Any]]) -> set[tuple[type, Any]]:
        """Return the ids that entries of several files have, after a line on each; their annotations belong to none."""
        files: dict[tuple[type, Any], set[str]] = {}
        for one in entries:
            files.setdefault((type(one["id"]), one["id"]), set()).add(_name(one))
        for (_, number), names in files.items():
            if len(names) > 1:
                called = ", ".join(f"'{name}'" for name in sorted(names)[:4])
                self._say(
                    f"image id {number!r} is that of {len(names)} files ({called}), so that nobody knows whose its "
                    "annotations are; they are left out, give each an id of its own"
                )
                self.dropped.add(id_key(number))
        return {key for key, names in files.items() if len(names) > 1}

    def _file(self, name: str) -> Path:
        """Return the path of an image; names written on Windows have other slashes."""
        path, other = (Path(os.path.normpath(self._folder / one)) for one in (name, name.replace("\\", "/")))
        return other if not os.path.isfile(path) and os.path.isfile(other) else path

    def _size(self, one: dict[str, Any], name: str) -> dict[str, int]:
        """Return height and width as an entry has them; nothing where it has none."""
        given = {key: one[key] for key in ("height", "width") if one.get(key) is not None}
        found = {key: size for key, value in given.items() if (size := whole(value, 1)) is not None}
        if len(found) == 2:
            return found
        if given:
            self._say(
                f"image '{name}' has height {one.get('height')!r} and width {one.get('width')!r}; expected its size in "
                "pixels, taken from the picture"
            )
        return {}

    def _home(self) -> str:
        """Return the innermost folder that holds the JSON file and the folder of images."""
        return os.path.commonpath([os.path.abspath(self._path.parent), os.path.abspath(self._folder)])

    def _root(self) -> str:
        """Return the folder of images, or the innermost one that holds all of them where some are elsewhere."""
        if all(_below(record["file_name"], str(self._folder)) for record in self.records):
            return str(self._folder)
        return os.path.commonpath([os.path.dirname(os.path.abspath(record["file_name"])) for record in self.records])

    def _say(self, line: str) -> None:
        self._problems.append(f"'{self._path.name}': {' '.join(line.split())}")


def find_folder(entries: list[Any], folders: Sequence[Path]) -> Path:
    """Return the first folder that has the file of the first image; the first of all where none has."""
    name = next((name for one in entries if isinstance(one, dict) and (name := _name(one))), "")
    return next((folder for folder in folders if os.path.isfile(folder / name)), folders[0])


def picture_size(path: str) -> tuple[int, int] | None:
    """Return height and width of a picture as `ovseg.data.images.read_image` gives it; None where it has none."""
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            return (width, height) if picture.getexif().get(0x0112) in TURNED else (height, width)
    except Exception:  # decoders raise nearly anything; reading it says what is wrong
        return None


def _name(image: dict[str, Any]) -> str:
    """Return the name of an image's file: its own, or folder and name at the end of its address (LVIS has no more)."""
    name, address = image.get("file_name"), image.get("coco_url")
    if name is None and isinstance(address, str):
        name = "/".join(address.split("/")[-2:])
    return name if isinstance(name, str) and name.strip() and "\0" not in name else ""


def _below(path: str, folder: str) -> bool:
    return not os.path.relpath(path, folder).startswith("..")
