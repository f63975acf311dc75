"""Downloads: every output format that an answer has something for, as one file or as an archive of several."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ovseg.errors import InputError
from ovseg.result.files import check_words, finish_files, needs_of, write_files
from ovseg.result.formats import FORMATS, Place, list_formats
from ovseg.result.segmentation import Segmentation
from ovseg.system.registry import find, options_of

_PLAIN = re.compile(r"[^\w.-]+")
_LONGEST = 60  # letters of a name
_SWITCHES = ("palette",)
"""Options of formats that are a download of their own."""
TYPES = {".png": "image/png", ".json": "application/json", ".zip": "application/zip"}


class Download(NamedTuple):
    """A file to be saved.

    Attributes:
        name: Without a folder.
        content: Of the file.
        type: As the header of a response has it.
    """

    name: str
    content: bytes
    type: str


def plain_name(name: str) -> str:
    """Return the stem of a file name that came with an upload, without what could lead anywhere."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem = last.rpartition(".")[0] or last
    return _PLAIN.sub("_", stem).strip("._-")[:_LONGEST] or "photo"


def offers(result: Segmentation) -> list[dict[str, str]]:
    """Return what can be downloaded of a result: ``format``, ``option`` (most often empty) and ``summary``."""
    found = []
    for one in list_formats():
        if _lacks(result, one.name):
            continue
        found.append({"format": one.name, "option": "", "summary": one.summary})
        options = options_of(find(FORMATS, one.name))
        found += [{"format": one.name, "option": own, "summary": one.summary} for own in _SWITCHES if own in options]
    return found


def links(result: Segmentation, session: str, side: str) -> list[dict[str, str]]:
    """Return the downloads with the addresses where they are."""
    return [
        {
            "label": " ".join(filter(None, (own["format"], own["option"]))),
            "summary": own["summary"],
            "href": f"download/{quote(session)}/{side}/{quote(own['format'])}"
            + (f"?option={own['option']}" if own["option"] else ""),
        }
        for own in offers(result)
    ]


def export(result: Segmentation, name: str, chosen: str, option: str = "") -> Download:
    """Write a result in a format.

    Args:
        result: Of one photograph.
        name: What the files are called, without a suffix; see `plain_name`.
        chosen: Name of the format.
        option: A switch of it, as `offers` names them; empty for none.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: It has no such switch.
        InputError: The result has nothing for it, or it cannot hold the result.
    """
    find(FORMATS, chosen)
    if lacking := _lacks(result, chosen):
        raise InputError(f"the answer has no {', '.join(lacking)}, which {chosen} shows; choose another format")
    options: Mapping[str, Any] = {option: True} if option else {}
    with tempfile.TemporaryDirectory(prefix="ovseg-") as temporary:
        folder = Path(temporary) / "out"
        folder.mkdir()
        check_words(result.classes, folder, [chosen], options)
        # There is no file of the photograph: formats that hold it write it out of the result.
        place = Place(folder, name, str(result.meta.get("image", name)), Path(temporary) / f"{name}.png")
        written = write_files(result, place, [chosen], options)
        finish_files(lambda one: [written[one].record], result.classes, folder, [chosen], options)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if len(files) == 1:
            suffix = files[0].suffix
            own = files[0].name if files[0].name.startswith(name) else f"{name}.{files[0].name}"
            return Download(own, files[0].read_bytes(), TYPES.get(suffix, "application/octet-stream"))
        return Download(f"{name}.{chosen}.zip", _zipped(files, folder), TYPES[".zip"])


def _zipped(files: list[Path], folder: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(folder).as_posix())
    return packed.getvalue()


def _lacks(result: Segmentation, chosen: str) -> list[str]:
    """Return what a format shows and a result does not have."""
    has = {"panoptic": result.panoptic, "instances": result.instances, "class_scores": result.class_scores}
    return sorted(need for need in needs_of([chosen]) if has.get(need) is None)
