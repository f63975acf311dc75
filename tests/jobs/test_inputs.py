"""What a job works on: folders, lists, patterns, archives, videos; and what its images are called."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovseg.data.images import read_image
from ovseg.errors import ConfigError, InputError
from ovseg.jobs.label.containers import Fetcher
from ovseg.jobs.label.inputs import Found, find_items
from ovseg.jobs.label.names import choose_names
from ovseg.system.paths import folded
from tests.conftest import make_photo
from tests.jobs.conftest import write_photos, write_video


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(make_photo(20, 16, seed=seed)).save(stream, format="PNG")
    return stream.getvalue()


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def keys(found: Found) -> list[str]:
    return [item.key for item in found.items]


def pixels_of(found: Found) -> list[np.ndarray]:
    fetcher = Fetcher()
    return [read_image(fetcher(item)).pixels for item in found.items]


def test_a_folder_is_a_tree(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    (photos / ".hidden").mkdir()
    (photos / ".hidden/a.png").write_bytes(png(0))
    (photos / "notes.md").write_text("")
    (photos / "a.overlay.png").write_bytes(png(0))
    (photos / "link").symlink_to(tmp_path)
    label_dir = photos / "out"
    write_photos(label_dir, 2)
    found = find_items([str(photos)], label_dir)
    assert keys(found) == ["0000.jpg", "0001.png", "deep/0002.jpg"]
    assert any("1 .md" in note for note in found.notes) and any("earlier runs" in note for note in found.notes)
    assert any("links to folders are not followed" in note for note in found.notes)


def test_several_inputs_are_named_below_what_holds_all_of_them(tmp_path: Path) -> None:
    for name in ("cam1", "cam2"):
        write_photos(tmp_path / name, 1)
    out = tmp_path / "out"
    assert keys(find_items([str(tmp_path / "cam1"), str(tmp_path / "cam2")], out)) == ["cam1/0000.jpg", "cam2/0000.jpg"]
    twice = [str(tmp_path / "cam1"), str(tmp_path / "cam1/0000.jpg"), f"{tmp_path}/*/*.jpg"]
    assert keys(find_items(twice, out)) == ["cam1/0000.jpg", "cam2/0000.jpg"]


def test_lists_and_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", 6)
    elsewhere = tmp_path / "far/away.png"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(png(1))
    (photos / "list.txt").write_bytes(f"\ufeffdeep/0002.jpg\r\n\r\n0001.png\r\n{elsewhere}\r\ngone.jpg\r\n".encode())
    found = find_items([str(photos / "list.txt")], tmp_path / "out")
    assert keys(found) == ["deep/0002.jpg", "0001.png", str(elsewhere).lstrip("/"), "gone.jpg"]
    monkeypatch.chdir(tmp_path)
    assert keys(find_items(["photos/**/*.jpg"], Path("out"))) == ["0000.jpg", "0004.jpg", "deep/0002.jpg"]
    (photos / "list.txt").write_text("\n")
    for wrong, says in {
        "photos/*.gif": "fits no file",
        "nowhere": "'nowhere' not found",
        "photos/list.txt": "is empty",
        "": "empty path",
    }.items():
        with pytest.raises(InputError, match=says):
            find_items([wrong], Path("out"))
    with pytest.raises(InputError, match="is an input"):
        find_items(["photos"], photos)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/x.md").write_text("")
    with pytest.raises(InputError, match=r"no images in 'empty'; files that are no images: 1 .md"):
        find_items(["empty"], Path("out"))


def test_a_pattern_never_fits_what_a_job_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    write_photos(photos / "out/images", 2)
    (photos / "a.labels.png").write_bytes(png(0))
    monkeypatch.chdir(tmp_path)
    expected = ["0000.jpg", "0001.png", "deep/0002.jpg"]
    assert sorted(keys(find_items(["photos/**/*.???"], Path("photos/out")))) == expected
    assert sorted(keys(find_items(["photos/*"], Path("photos/out")))) == expected
    assert keys(find_items(["photos/out/images/*.png"], Path("photos/out"))) == ["0001.png"]  # a part that is named
    (photos / "list.txt").write_text("out\n")
    for inside in ("photos/out/*", "photos/list.txt"):
        with pytest.raises(InputError, match="is an input, which results would mix with"):
            find_items([inside], Path("photos/out"))


def test_lists_have_comments(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    (photos / "#1.png").write_bytes(png(1))
    (photos / "list.txt").write_text("# mine\n0000.jpg\n#1.png\n")
    assert keys(find_items([str(photos / "list.txt")], tmp_path / "out")) == ["0000.jpg", "#1.png"]
    (photos / "list.txt").write_text("# mine\n")
    with pytest.raises(InputError, match="is empty"):
        find_items([str(photos / "list.txt")], tmp_path / "out")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    far = write_photos(tmp_path / "far", 1) / "0000.jpg"
    near = tmp_path / "photos" / str(far).lstrip("/")
    write_photos(near.parent, 1)
    (tmp_path / "photos/list.txt").write_text(f"{near}\n{far}\n{near}\n")
    with pytest.raises(InputError, match=f"'{near}' and '{far}' would both be called"):
        find_items([str(tmp_path / "photos/list.txt")], tmp_path / "out")


def test_pipes_are_no_images_and_block_nothing(tmp_path: Path) -> None:
    for name in ("a.png", "a.tar", "a.avi"):
        os.mkfifo(tmp_path / name)
    for item in find_items([str(tmp_path)], tmp_path / "out").items:
        with pytest.raises(InputError, match="not an ordinary file"):
            read_image(Fetcher()(item))


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz"), ("s.tar.xz", "w:xz")]
)
def test_members_of_archives_are_read_without_being_extracted(tmp_path: Path, name: str, mode: str) -> None:
    members = {f"{number:03d}.png": png(number) for number in range(4)} | {"000.cls": b"3", "000.json": b"{}"}
    path = write_tar(tmp_path / name, members, mode)
    before = sorted(tmp_path.iterdir())
    found = find_items([str(path)], tmp_path / "out")
    assert keys(found) == [f"{name}/{number:03d}.png" for number in range(4)]
    for number, pixels in enumerate(pixels_of(found)):
        np.testing.assert_array_equal(pixels, make_photo(20, 16, seed=number))
    assert any("1 .cls" in note and "1 .json" in note for note in found.notes)
    backward = Fetcher()
    assert [len(backward(item).read()) for item in reversed(found.items)] == [len(png(n)) for n in (3, 2, 1, 0)]
    assert sorted(tmp_path.iterdir()) == before


def test_archives_that_are_odd_or_damaged(tmp_path: Path) -> None:
    odd = {"../../up.png": png(0), "/root.png": png(1), "./a/b.png": png(2), "a/b.png": png(3), "x.dng": b"1"}
    odd |= {"._a.png": b"mac", "a/two\nlines.png": png(4)}
    found = find_items([str(write_tar(tmp_path / "odd.tar", odd))], tmp_path / "out")
    inner = [key.removeprefix("odd.tar/") for key in keys(found)]
    assert inner == ["up/up/up.png", "root.png", "a/b.png", "x.dng", "a/two\nlines.png"]
    np.testing.assert_array_equal(read_image(Fetcher()(found.items[2])).pixels, make_photo(20, 16, seed=3))
    assert "raw file" in found.items[3].problem and any("twice" in note for note in found.notes)
    whole = write_tar(tmp_path / "whole.tar", {f"{n}.png": png(n) for n in range(3)}).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: 512 + len(png(0)) + 900])
    cut = find_items([str(tmp_path / "cut.tar")], tmp_path / "out")
    assert "cut.tar/0.png" in keys(cut)
    fetcher, problems = Fetcher(), []
    for item in cut.items:
        try:
            read_image(fetcher(item))
        except InputError as error:
            problems.append(str(error))
    assert problems and any("damaged" in one or "cut off" in one for one in problems)
    for ending in ("gz", "xz"):  # zeros, which are packed well: what follows is no stream any more
        packed = tmp_path / f"packed.tar.{ending}"
        write_tar(packed, {f"{n}.ppm": b"P6 400 400 255\n" + bytes(range(200)) * 2400 for n in range(9)}, f"w:{ending}")
        whole = packed.read_bytes()
        middle = len(whole) // 2
        for wrong in (b"\xff" * 40, b"\x07" * 40):
            packed.write_bytes(whole[:middle] + wrong + whole[middle + 40 :])
            fetcher = Fetcher()
            for item in find_items([str(packed)], tmp_path / "out").items:
                with contextlib.suppress(InputError):
                    read_image(fetcher(item))
    (tmp_path / "none.tar").write_bytes(b"no archive")
    (item,) = find_items([str(tmp_path / "none.tar")], tmp_path / "out").items
    assert "none.tar' is damaged" in item.problem


def test_frames_of_a_video_are_named_by_their_number(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", 10)
    found = find_items([str(path)], tmp_path / "out", every=4)
    assert keys(found) == ["clip.avi/000000", "clip.avi/000004", "clip.avi/000008"]
    for item, pixels in zip(found.items, pixels_of(found), strict=True):
        red, green, blue = pixels.reshape(-1, 3).mean(0)
        assert red > 180 and abs(green - 20 * item.start) < 8 and blue < 20
    assert pixels_of(Found(items=found.items[::-1]))[0][0, 0, 1] > 140  # backwards, too
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (item,) = find_items([str(tmp_path / "broken.mp4")], tmp_path / "out").items
    assert "cannot be read: not one frame" in item.problem
    foreign = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.avi"))
    foreign.write_bytes(path.read_bytes())
    (item,) = find_items([str(foreign)], tmp_path / "out").items
    assert "is no UTF-8, which OpenCV cannot open" in item.problem
    with pytest.raises(ConfigError, match="--every is 0"):
        find_items([str(path)], tmp_path / "out", every=0)


NAMES = st.lists(st.sampled_from(["a", "b", "A", "x/a", "x/A", "é", "a.b"]), min_size=1, max_size=6, unique=True)
PATHS = NAMES.flatmap(
    lambda stems: st.lists(
        st.sampled_from([stem + end for stem in stems for end in (".jpg", ".png", ".JPG", "")]), min_size=1, unique=True
    )
)


@given(PATHS, PATHS, st.booleans())
def test_names_are_different_and_never_move(first: list[str], more: list[str], whole: bool) -> None:
    before = choose_names(first, {}, whole)
    after = choose_names(list(dict.fromkeys([*more, *first])), before, whole)
    assert before.items() <= after.items()
    assert len({folded(name) for name in after.values()}) == len(after)
    assert choose_names(first[::-1], {}, whole) == before or whole


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=100, max_size=300))
def test_long_names_fit_into_a_file_system(name: str) -> None:
    for key in (f"a/{name}.jpg", f"{name}/a.jpg", f"{name}/{name}/a.jpg"):  # archives hold folders that no disk takes
        found = choose_names([key], {})[key]
        assert all(len(os.fsencode(part)) <= 200 for part in found.split("/"))
    assert choose_names(["run.jpg", "Run", "deep/run.jpg"], {})["run.jpg"] == "run.jpg"  # run.json is the job's own
