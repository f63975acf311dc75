"""Examples of classes: pictures with masks, from files or from memory, put beside the words of a request."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.data.images import read_image
from ovseg.data.mask_files import read_label_image
from ovseg.errors import VocabularyError
from ovseg.vocabulary import ClassEntry, Vocabulary
from ovseg.vocabulary.examples import Example
from ovseg.vocabulary.names import fold, shown

_GIVEN = re.compile(r"(?P<name>[^=]+)=(?P<picture>.+?):(?P<mask>(?:[A-Za-z]:[\\/])?[^:]+)")


def read_example(picture: Any, mask: Any) -> Example:
    """Read a picture and the mask of an object in it.

    Args:
        picture: Whatever `ovseg.data.images.read_image` reads.
        mask: A PNG of one channel, or an array (H, W), not zero on the object; as large as the picture is upright.

    Raises:
        InputError: One of them cannot be read.
        VocabularyError: They differ in size, or the mask is empty.
    """
    image = read_image(picture)
    values = read_label_image(mask)[0] if isinstance(mask, (str, Path)) else np.asarray(mask)
    return Example(image.pixels, values != 0, str(image.path or image.name))


def with_examples(classes: Any, examples: Mapping[str, tuple[Any, Any] | Sequence[tuple[Any, Any]]]) -> Vocabulary:
    """Let pictures stand for classes.

    A class of the list that has one of these names is known by names and pictures. A name that the list has not becomes
    a class at its end that is known by its pictures alone: its name is shown, and no text tower is asked for it.

    Args:
        classes: Whatever `Vocabulary.parse` accepts; None or an empty list for pictures alone.
        examples: By name a pair of picture and mask, or several; see `read_example`.

    Raises:
        InputError: A picture or a mask cannot be read.
        VocabularyError: One does not fit, or a name stands twice.
    """
    own = Vocabulary.parse(classes) if classes else None
    entries = list(own) if own is not None else []
    places = {fold(name): place for place, entry in enumerate(entries) for name in entry.names}
    for name, given in examples.items():
        pairs: Any = (
            [given] if isinstance(given, tuple) and len(given) == 2 and not isinstance(given[0], tuple) else given
        )
        read = tuple(read_example(*pair) for pair in pairs)
        if not read:
            raise VocabularyError(f"no picture of {shown(name)} was given; give a pair of picture and mask")
        if (place := places.get(fold(name))) is None:
            places[fold(name)] = len(entries)
            entries.append(ClassEntry((name,), examples=read, by_name=False))
        else:
            entries[place] = dataclasses.replace(entries[place], examples=(*entries[place].examples, *read))
    return Vocabulary(tuple(entries), own.notes if own is not None else ())


def parse_examples(texts: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Read texts such as ``mug=mug.jpg:mug_mask.png``; a name may stand in several.

    Raises:
        VocabularyError: One has another form.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for text in texts:
        parts = _GIVEN.fullmatch(text.strip())
        if parts is None:
            raise VocabularyError(
                f"the example {shown(text)} is no class with a picture and a mask; expected NAME=PICTURE:MASK, "
                "as in mug=mug.jpg:mug_mask.png"
            )
        found.setdefault(parts["name"].strip(), []).append((parts["picture"], parts["mask"]))
    return found
