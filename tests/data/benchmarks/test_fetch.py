"""Downloads from a server on this machine: whole, broken off, of the wrong content; archives good and bad."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from typing import ClassVar

import pytest

from ovseg.data.benchmarks import BENCHMARKS
from ovseg.data.benchmarks.fetch import download, unpack
from ovseg.errors import InputError
from ovseg.system.files import file_hash
from tests.data.benchmarks.conftest import save_image, save_labels, stripes

CONTENT = bytes(range(256)) * 20_000


class Server(http.server.BaseHTTPRequestHandler):
    """Gives `files` by path, in parts where it is asked to; `cut` ends every answer after so many bytes."""

    files: ClassVar[dict[str, bytes]] = {}
    ranges: ClassVar[list[str]] = []
    cut: ClassVar[int] = 0

    def do_GET(self):
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404)
            return
        asked = self.headers.get("Range", "")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if asked and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + self.cut] if self.cut else content[start:])

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(monkeypatch):
    for name, value in (("files", {"/a.bin": CONTENT}), ("ranges", []), ("cut", 0)):
        monkeypatch.setattr(Server, name, value)
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_download_that_breaks_off_goes_on(server, tmp_path, monkeypatch):
    path = tmp_path / "downloads/a.bin"
    monkeypatch.setattr(Server, "cut", 3_000_000)
    with pytest.raises(InputError, match="run again to go on"):
        download(f"{server}/a.bin", path)
    assert not path.exists() and path.with_name("a.bin.part").stat().st_size == 3_000_000
    digest = hashlib.md5(CONTENT).hexdigest()
    download(f"{server}/a.bin", path, f"md5:{digest}", len(CONTENT))
    assert path.read_bytes() == CONTENT and Server.ranges == ["", "bytes=3000000-"]
    assert not path.with_name("a.bin.part").exists() and file_hash(path, "md5") == digest


def test_a_part_that_is_the_whole(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    download(f"{server}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize(("checksum", "size"), [("sha256:00", 0), ("", 5)])
def test_the_wrong_content(server, tmp_path, checksum, size):
    with pytest.raises(InputError, match="are not the expected file"):
        download(f"{server}/a.bin", tmp_path / "a.bin", checksum, size)
    assert list(tmp_path.iterdir()) == []


def test_no_such_file(server, tmp_path):
    with pytest.raises(InputError, match="404"):
        download(f"{server}/b.bin", tmp_path / "b.bin")
    with pytest.raises(InputError, match="cannot download"):
        download("http://127.0.0.1:9/a.bin", tmp_path / "b.bin")


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path):
    """The zip of a miniature ADE20K-150."""
    folder = tmp_path / "packed"
    for i in range(2):
        save_image(folder / f"ADEChallengeData2016/images/validation/{i}.jpg", seed=i)
        save_labels(folder / f"ADEChallengeData2016/annotations/validation/{i}.png", stripes(0, 1, 2, 3))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return zipped({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})


@pytest.fixture
def served(server, archive, expect, monkeypatch):
    """ADE20K-150 comes from the server."""
    expect("ade150", 2)
    Server.files["/ade.zip"] = archive
    one = BENCHMARKS["ade150"]
    source = dataclasses.replace(one.sources[0], url=f"{server}/ade.zip", size=len(archive))
    monkeypatch.setitem(BENCHMARKS, "ade150", dataclasses.replace(one, sources=(source,)))


def test_prepare_downloads_unpacks_and_converts(served, root, datasets):
    status, out, err = datasets("prepare", "ade150")
    assert (status, err) == (0, "") and "ade150_val: 2 images, 3 of 150 classes" in out
    assert (root / "downloads/ADEChallengeData2016.zip").is_file()
    assert datasets("prepare", "ade150")[0] == 0 and Server.ranges == [""]


def test_a_partial_tree_is_completed(served, root, datasets):
    save_image(root / "ADEChallengeData2016/images/validation/0.jpg", seed=0)
    assert datasets("prepare", "ade150")[0] == 0 and Server.ranges == [""]


def test_an_archive_without_what_is_missing(served, root, datasets):
    Server.files["/ade.zip"] = content = zipped({"readme.txt": b"nothing"})
    one = BENCHMARKS["ade150"].sources[0]
    object.__setattr__(one, "size", len(content))
    status, _, err = datasets("prepare", "ade150")
    assert status == 2 and "ADEChallengeData2016/images/validation' is missing" in err


def test_an_archive_that_the_user_fetched(served, archive, root, datasets):
    (root / "downloads").mkdir()
    (root / "downloads/ADEChallengeData2016.zip").write_bytes(archive)
    assert datasets("prepare", "ade150")[0] == 0 and Server.ranges == []


def test_unpacking_that_broke_off_goes_on(served, archive, root, datasets):
    assert datasets("prepare", "ade150")[0] == 0
    (root / "ADEChallengeData2016/images/validation/1.jpg").unlink()
    (root / "downloads/ADEChallengeData2016.zip.unpacking").touch()
    status, out, _ = datasets("prepare", "ade150")
    assert status == 0 and "2 images" in out and not (root / "downloads/ADEChallengeData2016.zip.unpacking").exists()


def test_a_corrupt_archive_is_named(served, archive, root, datasets):
    (root / "downloads").mkdir()
    path = root / "downloads/ADEChallengeData2016.zip"
    path.write_bytes(archive[: len(archive) // 2])
    status, _, err = datasets("prepare", "ade150")
    assert status == 2 and f"archive '{path}' cannot be unpacked" in err and "delete it, fetch it again" in err


def test_tars_and_plain_files(tmp_path):
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        info = tarfile.TarInfo("x/y.txt")
        info.size = 3
        packed.addfile(info, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("x/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    unpack(path, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out/x").iterdir()] == ["y.txt"]
    (tmp_path / "labels.txt").write_text("1: a")
    unpack(tmp_path / "labels.txt", tmp_path / "out")
    assert (tmp_path / "out/labels.txt").read_text() == "1: a"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"a\.tar\.gz"):
        unpack(path, tmp_path / "other")


def test_nothing_is_written_outside(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(zipped({"../evil.txt": b"x"}))
    with pytest.raises(InputError, match="points outside"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "evil.txt").exists()
