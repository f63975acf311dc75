"""The log of a run: whole lines count, whatever letters they have and wherever a kill has cut the last one."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from ovseg.errors import InputError
from ovseg.evaluation.runs.image_log import ImageRecord, appending, close_log, read_log

NAMES = ("images/été.png", "images/two\u2028lines\x85.png")


def write(folder: Path) -> Path:
    with appending(folder, {"model": "λ"}, "0") as append:
        for index, name in enumerate(NAMES):
            append(ImageRecord(index, name))
    (path,) = (folder / "records").iterdir()
    return path


def test_letters_of_all_kinds_come_back(tmp_path: Path) -> None:
    write(tmp_path)
    log = read_log(tmp_path)
    close_log(tmp_path, log)
    assert log == read_log(tmp_path) and [record.name for record in log.ordered] == list(NAMES)


def test_a_line_that_is_cut_inside_a_letter_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path)
    first, second = (path.read_bytes().index(name.encode()) for name in NAMES)
    path.write_bytes(path.read_bytes()[: second + len(b"images/two") + 1])
    assert read_log(tmp_path).ordered == [ImageRecord(0, NAMES[0])]
    path.write_bytes(path.read_bytes()[: first + len(b"images/") + 1])
    assert read_log(tmp_path).source == {"model": "λ"} and not read_log(tmp_path).images


def test_a_disk_without_room_is_one_line(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.raises(InputError, match=r"cannot write '.*/records/0-.*' \(File too large\); .*free some space"):
        with appending(tmp_path, {}, "0") as append:
            append(ImageRecord(0, "a"))
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
                append(ImageRecord(1, "b"))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(read_log(tmp_path).images) == [0]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("a file")
    with pytest.raises(InputError, match=r"'.*/records' cannot be made: a file is in its place"):
        write(tmp_path)
