"""Files of words: text a class a line, tables, JSON, YAML; told apart by what is in them."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import shlex
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from ovseg.errors import VocabularyError
from ovseg.vocabulary.entries import RawClass, read_names, read_numbered
from ovseg.vocabulary.names import shown, some
from ovseg.vocabulary.numbering import Numbered
from ovseg.vocabulary.pasted import read_json, unpack
from ovseg.vocabulary.records import read_data

_MARKS = {  # the longer ones first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_NO_TEXT = {
    b"PK\x03\x04": "an archive or an office document: save the sheet as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "an office document: save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "compressed: unpack it (gunzip)",
    b"{\\rtf": "rich text: save it as plain text (UTF-8)",
    b"%PDF": "a PDF: copy the names into a .txt file, one a line",
}
_LINES = re.compile(r"\r*\n|\r")
_COMMENT = re.compile(r"#|//")
_OTHER_FORM = re.compile(r"[{}]|^\[(?!\d+\]).*\],?$|^\|.*\|$|^---$|^\w+\s*:$|^\w+\s*[:=]\s*[\[(]")
_NAME_COLUMNS = (
    *("name", "names", "class_name", "classname", "label", "labels", "label_name", "category_name", "categories"),
    *("displayname", "display_name", "title"),
)
_GROUP_COLUMNS = ("class", "classes", "category")  # of names where there is no other, else of groups of them
_ID_COLUMNS = ("id", "idx", "index", "class_id", "category_id", "label_id")


def read_file(path: Path, notes: list[str]) -> list[RawClass]:
    """Read the classes of a file.

    Raises:
        VocabularyError: It is missing, no text, or can be read in several ways or none.
        UnknownNameError: An entry of it has an unknown key.
    """
    text = _decode(_bytes(path), path, notes).strip("\ufeff")
    if not text.strip():
        raise VocabularyError(f"vocabulary file {path.name} is empty; write one class a line")
    if text.lstrip().startswith("<"):
        raise VocabularyError(
            f"vocabulary file {shown(str(path))} is XML or HTML; write its names into a .txt file, one class a line"
        )
    suffix = path.suffix.lower()
    if suffix == ".json":
        return read_data(_json(text, path), path.name, notes)
    if suffix in (".yaml", ".yml"):
        return read_data(_yaml(text, path), path.name, notes)
    data = unpack(text.strip(), notes)
    return read_lines(text, f"{path.name} ", notes) if data is None else read_data(data, path.name, notes)


def read_lines(text: str, name: str, notes: list[str]) -> list[RawClass]:
    """Read a class a line, or a table whose first line names its columns.

    Args:
        text: Lines that end in any of the usual ways; those that begin with ``#`` or ``//`` are comments.
        name: What to call the text in messages, with a space behind it.
        notes: Gets a line for everything that was left out or read as something else.

    Raises:
        VocabularyError: A line may be read in several ways, or there is none with a class.
    """
    lines = _content(text, name, notes)
    table = _read_table(lines, notes)
    if table is not None:
        return table
    for line, where in lines:
        if _OTHER_FORM.search(line):
            raise VocabularyError(
                f"{where} ({shown(line)}) belongs to some other form than a list of names; write one class a line, or "
                "save JSON as .json and YAML as .yaml"
            )
    return read_names(lines, notes)


def _content(text: str, name: str, notes: list[str]) -> list[tuple[str, str]]:
    """Return the lines that hold classes, and where they stand.

    Blank lines next to a comment or behind the last class are layout; elsewhere one may be a class that got lost, and
    all behind it would count one too low.
    """
    lines = [line.strip() for line in _LINES.split(text.rstrip())]
    comments = [line for line in lines if _COMMENT.match(line)]
    found, blank, layout = [], 0, False
    for number, line in enumerate(lines, 1):
        if _COMMENT.match(line):
            blank, layout = 0, True
        elif not line:
            blank = blank or number
        else:
            if blank and not layout:
                raise VocabularyError(
                    f"{name}line {blank} is empty; a class may have got lost there: remove the line, or write its name"
                )
            bare = re.split(r"\s+(?:#|//)\s", line, maxsplit=1)[0]
            comments += [line] if bare != line else []
            found.append((bare, f"{name}line {number}"))
            blank, layout = 0, False
    if comments:
        notes.append(f"comments were left out: {some(comments)}")
    if not found:
        raise VocabularyError(f"{name}has comments and no classes; write one class a line".lstrip())
    return found


def _read_table(lines: list[tuple[str, str]], notes: list[str]) -> list[RawClass] | None:
    """Read a table with a line that names its columns; None where there is no such line."""
    first = lines[0][0]
    divider = next((one for one in "\t;," if one in first), "")
    cells = first.split(divider) if divider else [first]
    head = [cell.strip().strip("\"'").lower().replace(" ", "_") for cell in cells]
    rows = list(csv.reader(io.StringIO("\n".join(line for line, _ in lines[1:])), delimiter=divider or ","))
    rows = [[cell.strip() for cell in row] for row in rows]
    named = [place for place, cell in enumerate(head) if cell in _NAME_COLUMNS]
    named = named or [place for place, cell in enumerate(head) if cell in _GROUP_COLUMNS]
    if not named or len(lines) < 2:
        return None
    for row, (line, where) in zip(rows, lines[1:], strict=False):
        if len(row) != len(head):
            raise VocabularyError(f"{where} ({shown(line)}) has {len(row)} cells; expected {len(head)} as in line 1")
    numbers = [place for place in named if all(row[place].isdecimal() for row in rows)]
    named = [place for place in named if place not in numbers]
    ids = [place for place, cell in enumerate(head) if cell in _ID_COLUMNS] or numbers
    if len(named) != 1 or len(ids) > 1:
        raise VocabularyError(
            f"{lines[0][1]} ({shown(first)}) names several columns of names or ids; keep the one that counts"
        )
    places = [where for _, where in lines[1:]]
    left = [cell for place, cell in enumerate(head) if place not in (*named, *ids)]
    notes.append(
        f"read as a table: names from column {head[named[0]]!r}"
        + (f", ids from {head[ids[0]]!r}" if ids else "")
        + (f"; left out: {', '.join(left)}" if left else "")
    )
    if not ids:
        return read_names([(row[named[0]], where) for row, where in zip(rows, places, strict=True)], notes)
    for row, where in zip(rows, places, strict=True):
        if not row[ids[0]].isdecimal():
            raise VocabularyError(f"{where} has the id {shown(row[ids[0]])}; expected a whole number from 0")
    return [
        read_numbered(Numbered(int(row[ids[0]]), row[named[0]], where), notes)
        for row, where in zip(rows, places, strict=True)
    ]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise VocabularyError(f"vocabulary file {shown(str(path))} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VocabularyError(f"vocabulary file {shown(str(path))} cannot be read: {reason}") from None


def _decode(data: bytes, path: Path, notes: list[str]) -> str:
    """Return the text of a file, by its byte order mark or as UTF-8."""
    for start, what in _NO_TEXT.items():
        if data.startswith(start):
            raise VocabularyError(f"vocabulary file {shown(str(path))} is {what}")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\x00" in data:
        raise VocabularyError(
            f"vocabulary file {shown(str(path))} is no text, or UTF-16 without its mark; save it as UTF-8"
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise VocabularyError(
            f"vocabulary file {shown(str(path))} is not {encoding.removesuffix('-sig').upper()} text (line {line}); "
            f"save it as UTF-8, as by `iconv -f CP1252 -t UTF-8 {shlex.quote(path.name)} > utf8.txt` (CP1252 is that "
            "of Western Windows; GBK, SHIFT_JIS, KOI8-R are others)"
        ) from None
    if encoding in ("utf-16", "utf-32"):
        notes.append(f"{path.name} was read as {encoding.upper()}")
    return text


def _json(text: str, path: Path) -> Any:
    try:
        return read_json(text)
    except json.JSONDecodeError as error:
        raise VocabularyError(
            f"vocabulary file {shown(str(path))} is not valid JSON in line {error.lineno}: {_why(text, error)}"
        ) from None
    except ValueError as error:
        raise VocabularyError(f"vocabulary file {shown(str(path))} is not valid JSON: {error}") from None


def _why(text: str, error: json.JSONDecodeError) -> str:
    """Say what is wrong with JSON, and how to mend it where that is known."""
    before, after = text[: error.pos].rstrip(), text[error.pos :].lstrip()
    if before.endswith(",") and after[:1] in ("]", "}"):
        return f"there is a comma before the closing {after[0]!r}; remove the comma"
    if after.startswith(",") and after[1:].lstrip()[:1] in ("]", "}"):
        return "there is a comma before the closing bracket; remove the comma"
    if after.startswith("'"):
        return "names stand in single quotes; JSON wants double ones"
    if after.startswith(("//", "/*", "#")):
        return "JSON has no comments; remove them"
    if error.msg == "Extra data":
        return "it holds more than one value; put them all into one list: [..., ...]"
    return error.msg


class _Loader(yaml.BaseLoader):
    """YAML whose scalars stay texts (no name becomes true or a date), and whose keys stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Read a mapping; a key that stands twice would replace the first in silence."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise VocabularyError(
                f"the key {shown(twice)} stands twice in one YAML mapping; every class has its own, mend it"
            )
        return super().construct_mapping(node, deep)


def _yaml(text: str, path: Path) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # it builds texts, lists and dicts alone
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "nested too deeply, or with characters that it does not allow"
        raise VocabularyError(f"vocabulary file {shown(str(path))} is not valid YAML{line}: {reason}") from None
