"""Which images ``ovseg segment`` works on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ovseg.errors import InputError


def choose_inputs(named: Sequence[str]) -> tuple[list[Path], int]:
    """Expand files and folders, each image once.

    Pictures of earlier runs (``*.overlay.png``, ``*.labels.png``, ...) in a folder are no inputs: so the output folder
    may be an input folder too. A file that is named itself is taken whatever it is called.

    Returns:
        The images, and how many files were left out as results.

    Raises:
        InputError: A path does not exist, or a folder holds no images.
    """
    from ovseg.data.images import expand_inputs
    from ovseg.result.files import is_picture_of_ours

    found = {os.path.abspath(path): path for path in expand_inputs(list(named))}
    own = {os.path.abspath(name) for name in named}
    chosen = [path for key, path in found.items() if key in own or not is_picture_of_ours(path)]
    if not chosen:
        raise InputError(
            f"'{named[0]}' holds only results of earlier runs; expected photographs, or name a file itself"
        )
    return chosen, len(found) - len(chosen)
