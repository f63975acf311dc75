"""Where the results of ``ovseg segment`` go, and what is in the way. Everything is settled before the heavy work."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ovseg.errors import InputError

OVERLAY, LABELS, REPORT = ".overlay.png", ".labels.png", ".json"


def choose_inputs(named: Sequence[str]) -> tuple[list[Path], int]:
    """Expand files and folders, each image once.

    Results of earlier runs (``*.overlay.png``, ``*.labels.png``) in a folder are no inputs: so the output folder may be
    an input folder too. A file that is named itself is taken whatever it is called.

    Returns:
        The images, and how many files were left out as results.

    Raises:
        InputError: A path does not exist, or a folder holds no images.
    """
    from ovseg.data.images import expand_inputs

    found = {os.path.abspath(path): path for path in expand_inputs(list(named))}
    own = {os.path.abspath(name) for name in named}
    chosen = [path for key, path in found.items() if key in own or not path.name.endswith((OVERLAY, LABELS))]
    if not chosen:
        raise InputError(
            f"'{named[0]}' holds only results of earlier runs; expected photographs, or name a file itself"
        )
    return chosen, len(found) - len(chosen)


def plan_outputs(images: Iterable[Path], folder: Path) -> dict[str, Path]:
    """Choose for each image the path of its results without their suffixes, and make sure that they may be written.

    Results of earlier runs are replaced. An image of this run and a JSON file that is no result never are.

    Returns:
        ``str(image)`` -> ``folder/stem``; results are at this path plus `OVERLAY`, `LABELS` or `REPORT`.

    Raises:
        InputError: The folder cannot be written to, or a file would be overwritten that is no result.
    """
    from ovseg.data.images import output_stems
    from ovseg.system.files import check_writable

    images = list(images)
    stems = output_stems([path.name for path in images])
    bases = {str(path): folder / stem for path, stem in zip(images, stems, strict=True)}
    inputs = {os.path.realpath(path) for path in images}
    for base in bases.values():
        for suffix in (OVERLAY, LABELS, REPORT):
            _check_replaceable(Path(f"{base}{suffix}"), inputs)
    check_writable(folder)
    return bases


def _check_replaceable(target: Path, inputs: set[str]) -> None:
    if os.path.realpath(target) in inputs:
        raise InputError(f"'{target}' is an input and would be overwritten by a result; choose another --output")
    if target.is_dir():
        raise InputError(f"result '{target}' cannot be written: a folder is in its place; choose another --output")
    if target.suffix == REPORT and target.is_file():
        try:
            with target.open("rb") as file:
                ours = b'"label_values"' in file.read(400)
        except OSError as error:
            raise InputError(f"'{target}' cannot be read ({error.strerror}); choose another --output") from error
        if not ours:
            raise InputError(f"'{target}' is no result of ovseg and would be overwritten; choose another --output")
