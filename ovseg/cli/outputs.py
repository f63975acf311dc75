"""Which images ``ovseg segment`` works on, and what of the folders it was given is left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovseg.errors import InputError


@dataclass
class Chosen:
    """What was chosen.

    Attributes:
        images: Each once, in the order given.
        errors: A line for each path that leads nowhere, and for each kind of picture that is not read.
        failed: How many images these lines are about.
        notes: A line for each kind of file that was left out.
    """

    images: list[Path]
    errors: list[str] = field(default_factory=list)
    failed: int = 0
    notes: list[str] = field(default_factory=list)


def choose_inputs(named: Sequence[str], output: Path) -> Chosen:
    """Expand files and folders, each image once.

    Pictures of earlier runs (``*.overlay.png``, ``*.labels.png``, ...) in a folder are no inputs: so the output folder
    may be an input folder too. A file that is named itself is taken whatever it is called.

    Args:
        named: Files and folders.
        output: Folder of the results; nothing is said of it where it lies in a folder of images.

    Raises:
        InputError: Not one image is left.
    """
    from ovseg.data.images import find_inputs, name_some
    from ovseg.result.files import is_picture_of_ours

    found = find_inputs(list(named))
    each = {os.path.abspath(path): path for path in found.images}
    own = {os.path.abspath(name) for name in named}
    images = [path for key, path in each.items() if key in own or not is_picture_of_ours(path)]
    chosen = Chosen(images, [*map(str, found.missing), *found.unread_lines()])
    chosen.failed = len(found.missing) + sum(map(len, found.unread.values()))
    if not images:
        first, *others = chosen.errors or [
            f"'{named[0]}' holds only results of earlier runs; expected photographs, or name a file itself"
        ]
        raise InputError("\nerror: ".join([first, *others]))
    if left_out := len(each) - len(images):
        chosen.notes.append(f"{left_out} results of earlier runs are left out; name a file itself to segment it")
    if found.others:
        chosen.notes.append(f"{name_some(found.others)}; name a file itself to segment it whatever it is called")
    if folders := [path for path in found.folders if path.resolve() != output.resolve()]:
        chosen.notes.append(f"{name_some(folders, 'folder')}; name a folder itself to segment what is in it")
    return chosen
