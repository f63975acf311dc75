"""From what JSON and YAML files hold to raw classes: lists, COCO's categories, maps of ids to names and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovseg.errors import VocabularyError
from ovseg.vocabulary.entries import RawClass, read_dict, read_entries, read_id, read_numbered
from ovseg.vocabulary.names import clean_name, shown
from ovseg.vocabulary.numbering import Numbered

_LISTS = ("categories", "classes", "class_names", "names", "labels", "id2label", "label2id")
_COUNTS = ("nc", "num_classes", "num_labels")
_EXPECTED = (
    "expected a list of classes, {'categories': [...]} as COCO has it, ids with their names ({'0': 'cat'}), or names "
    "with their ids ({'cat': 0})"
)


def read_data(data: object, name: str, notes: list[str]) -> list[RawClass]:
    """Read a list of entries, a dict that holds one, or a map between ids and names.

    Args:
        data: Of a file, or given by a program.
        name: What to call it in messages.
        notes: Gets a line for everything that was read as something else than it says.

    Raises:
        VocabularyError: It is none of these, or several at once.
        UnknownNameError: An entry has a misspelt key.
    """
    if isinstance(data, (list, tuple)):
        return read_entries([(item, f"{name} class {i}") for i, item in enumerate(data)], notes)
    if not isinstance(data, Mapping):
        raise VocabularyError(f"{name} holds {shown(data)}; {_EXPECTED}")
    keys = [key for key, value in data.items() if str(key).lower() in _LISTS and not isinstance(value, (int, str))]
    if not keys:
        return _read_map(data, name, notes)
    lowered = {str(key).lower(): data[key] for key in keys}
    if len(lowered) > 1 and lowered.keys() != {"id2label", "label2id"}:
        raise VocabularyError(
            f"{name} has the keys {' and '.join(map(str, keys))}; keep the one that lists the classes"
        )
    key, found = next(iter(lowered.items())) if len(lowered) == 1 else ("id2label", lowered["id2label"])
    where = f"{name} {key}"
    if isinstance(found, (list, tuple)):
        items = [(item, f"{name} class {i}") for i, item in enumerate(found)]
        classes = read_entries(items, notes)
    elif isinstance(found, Mapping):
        classes = _read_map(found, where, notes)
    else:
        raise VocabularyError(f"{where} holds {shown(found)}; {_EXPECTED}")
    _check_count(data, len(classes), name)
    if len(lowered) > 1:
        _check_agreement(classes, lowered["label2id"], name)
    return classes


def _read_map(data: Mapping[Any, Any], name: str, notes: list[str]) -> list[RawClass]:
    """Read ids with what they mean, or names with their ids, in the order of the file."""
    if not data:
        raise VocabularyError(f"{name} is an empty map; {_EXPECTED}")
    keys, values = [all(map(_is_id, side)) for side in (data.keys(), data.values())]
    if keys and values:
        raise VocabularyError(f"{name} maps numbers to numbers ({shown(dict(data))}); expected ids with names")
    if values:
        return [
            RawClass((clean_name(key, f"{name} class {i}"),), id=int(value), where=f"{name} class {i}")
            for i, (key, value) in enumerate(data.items())
        ]
    if not keys:
        if place := _find_list(data):
            raise VocabularyError(f"{name} has names under {shown(place)}; save that part as a file of its own")
        raise VocabularyError(f"{name} holds {shown(dict(data))}; {_EXPECTED}")
    return [_read_value(int(key), value, f"{name} id {key}", notes) for key, value in data.items()]


def _read_value(own: int, value: object, where: str, notes: list[str]) -> RawClass:
    """Read what stands for an id: a name (dividers in it are between synonyms), a list of names, or a dict."""
    if isinstance(value, str):
        return read_numbered(Numbered(own, value, where), notes)
    if isinstance(value, Mapping):
        found = read_dict(value, where, notes)
        if found.id not in (None, own):
            raise VocabularyError(f"{where} has the id {found.id} inside; expected the same as its key")
    else:
        (found,) = read_entries([(value, where)], notes)
    return found._replace(id=own)


def _find_list(data: object, path: str = "") -> str:
    """Return where in a file of another form a list of names is; empty where there is none."""
    inner = data.items() if isinstance(data, Mapping) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        place = f"{path}.{key}" if path else str(key)
        if str(key).lower() in _LISTS and isinstance(value, (list, Mapping)):
            return place
        if deeper := _find_list(value, place):
            return deeper
    return ""


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return value.strip().isdecimal()
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_count(data: Mapping[Any, Any], count: int, name: str) -> None:
    """Refuse a file that says how many classes it has, and has another number (YOLO's ``nc``)."""
    for key in _COUNTS:
        if _is_id(data.get(key)) and int(data[key]) != count:
            raise VocabularyError(f"{name} says {key} {data[key]} and lists {count} classes; mend one of the two")


def _check_agreement(classes: list[RawClass], other: object, name: str) -> None:
    """Refuse two maps that contradict each other."""
    ids = {key: read_id(value, f"{name} label2id") for key, value in dict(other).items()}  # type: ignore[call-overload]
    for one in classes:
        if not any(ids.get(key) == one.id for key in ids):
            raise VocabularyError(f"{name}: id2label has the id {one.id} and label2id has not; mend one of the two")
