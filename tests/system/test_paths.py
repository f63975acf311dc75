"""Names of results: by path, for whatever order and company the images come in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg.system.paths import common_root, relative_names

PARTS = st.sampled_from(["a", "A", "cam1", "a.jpg", "a.png", "é", "é", ".x"])
FILES = st.sampled_from(["a", "A.jpg", "a.jpg", "a.png", "a.jpg.png", "b.png", "é.jpg", "é.jpg", "0001.jpg"])
PATHS = st.lists(st.tuples(st.lists(PARTS, max_size=2), FILES).map(lambda p: "/".join(["/r", *p[0], p[1]])), max_size=9)


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/r/cam1/0001.jpg", "/r/cam2/0001.jpg"], ["cam1/0001", "cam2/0001"]),
        (["/r/a.jpg", "/r/b.png"], ["a", "b"]),
        (["/r/a.jpg", "/r/a.png", "/r/b.png"], ["a.jpg", "a.png", "b"]),  # one stem, two files
        (["/r/a.jpg", "/r/A.png"], ["a.jpg", "A.png"]),  # the same stem on many disks
        (["/r/a.jpg", "/r/a.jpg.png"], ["a", "a.jpg.png"]),  # the stem of one is the name of the other
        (["/r/a", "/r/a.jpg"], ["a", "a.jpg"]),
        (["/r/a.tar.jpg", "/r/.hidden.jpg", "/r/v1.2"], ["a.tar", ".hidden", "v1"]),
        (["/r/a.jpg", "/r/a.jpg"], ["a", "a"]),  # one image
        (["/other/a.jpg", "/r/a.jpg"], ["up/other/a", "a"]),
        ([], []),
    ],
)
def test_names(paths: list[str], names: list[str]) -> None:
    assert relative_names(paths, "/r") == names


def test_upper_and_lower_case_are_told_apart_by_content() -> None:
    both = relative_names(["/r/a.jpg", "/r/A.jpg"], "/r")
    assert [name[:6] for name in both] == ["a.jpg-", "A.jpg-"]
    assert relative_names(["/r/A.jpg", "/r/a.jpg"], "/r") == both[::-1]


def test_names_that_are_not_utf8_have_one() -> None:
    odd = os.fsdecode(b"/r/\xff.jpg")
    assert relative_names([odd], "/r") == [os.fsdecode(b"\xff")]
    assert len({*relative_names([odd, odd.replace(".jpg", ".JPG")], "/r")}) == 2


@given(PATHS, st.randoms())
def test_names_are_different_and_do_not_depend_on_the_order(paths: list[str], random: object) -> None:
    names = dict(zip(paths, relative_names(paths, "/r"), strict=True))
    assert len({name.casefold() for name in names.values()}) == len(names)
    turned = list(paths)
    random.shuffle(turned)  # type: ignore[attr-defined]
    assert dict(zip(turned, relative_names(turned, "/r"), strict=True)) == names


@given(PATHS.filter(bool))
def test_another_image_changes_only_names_that_it_would_share(paths: list[str]) -> None:
    before = dict(zip(paths[1:], relative_names(paths[1:], "/r"), strict=True))
    after = dict(zip(paths, relative_names(paths, "/r"), strict=True))
    new = Path(paths[0]).with_suffix("").as_posix().casefold()
    for path, name in before.items():
        if after[path] != name:
            assert path not in paths[:1]
            assert {Path(path).with_suffix("").as_posix().casefold(), path.casefold()} & {new, paths[0].casefold()}


def test_common_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert common_root(["cam1/a.jpg", "cam1/b.jpg"]) == tmp_path / "cam1"
    assert common_root(["cam1/a.jpg", tmp_path / "cam2" / "a.jpg"]) == tmp_path
    assert common_root(["cam1/../cam2/a.jpg"]) == tmp_path / "cam2"
