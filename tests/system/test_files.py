"""Files are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ovseg.errors import InputError
from ovseg.system.files import atomic_write, check_makeable, check_writable, file_hash


def test_writes_and_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    for text in ("old", "new"):
        with atomic_write(target) as temporary:
            assert temporary.parent == tmp_path and temporary.suffix == ".json" and temporary.name.startswith(".")
            temporary.write_text(text)
        assert target.read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with atomic_write(tmp_path / "atomic"):
        pass
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(target) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_killed_half_way_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    code = (
        "import sys, time; from ovseg.system.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary, open(temporary, 'w') as file:\n"
        "    file.write('half'); file.flush(); print('ready', flush=True); time.sleep(60)\n"
    )
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=root, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=10)
    child.stdout.close()
    assert target.read_text() == "old"
    left = [path.name for path in tmp_path.iterdir() if path != target]
    assert all(name.startswith(".") for name in left)  # hidden, so a folder of images does not show it


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*a\.png.*No space left") as caught,
        atomic_write(tmp_path / "a.png"),
    ):
        raise OSError(28, "No space left on device")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot write mode F as PNG"), atomic_write(tmp_path / "a.png"):
        raise OSError("cannot write mode F as PNG")


def test_missing_folder_and_folder_as_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="create it first"), atomic_write(tmp_path / "none" / "a.png"):
        raise AssertionError("must not be reached")
    with pytest.raises(InputError, match="it is a folder"), atomic_write(tmp_path):
        raise AssertionError("must not be reached")


def test_check_writable_creates_and_leaves_nothing(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("below", [False, True])
def test_check_writable_with_a_file_in_the_way(tmp_path: Path, below: bool) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="a file is in its place"):
        check_writable(tmp_path / "out" / "deeper" if below else tmp_path / "out")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not stop the superuser")
def test_check_writable_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        for folder in (tmp_path, tmp_path / "new"):
            with pytest.raises(InputError, match="Permission denied"):
                check_writable(folder)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that refuses everybody")
def test_check_writable_on_a_refusing_file_system() -> None:
    with pytest.raises(InputError, match="cannot be written to"):
        check_writable("/proc/ovseg-output")


def test_checksums_of_files_of_several_pieces(tmp_path: Path) -> None:
    content = b"ab" * (1 << 20) + b"c"
    (tmp_path / "a").write_bytes(content)
    assert file_hash(tmp_path / "a") == hashlib.sha256(content).hexdigest()
    assert file_hash(str(tmp_path / "a"), "md5") == hashlib.md5(content).hexdigest()


def test_a_folder_that_could_be_made_is_not_made(tmp_path: Path) -> None:
    assert check_makeable(tmp_path / "a/b/c") == tmp_path / "a/b/c" and list(tmp_path.iterdir()) == []
    assert check_makeable(tmp_path) == tmp_path and list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"output folder '.*/file/b' cannot be made: a file is in its place"):
        check_makeable(tmp_path / "file/b")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"link/b' cannot be made"):
        check_makeable(tmp_path / "link/b")
