"""Fetching from a double of the hub: first use, second use, and everything that can go wrong between them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from safetensors.numpy import save

from ovseg.checkpoint.hub import Source, fetch, fetch_first, local, quietly, stored
from ovseg.errors import DownloadError, InputError
from tests.hub_double import HubDouble, sha256

REPO, FILE = "authors/model", "model.safetensors"
DATA = save({"a": np.random.default_rng(0).integers(0, 256, 299_928, np.uint8)})  # 300,000 bytes
SOURCE = Source(REPO, FILE, licence="MIT")
FETCH = "import sys; from ovseg.checkpoint.hub import Source, fetch; print(fetch(Source(sys.argv[1], sys.argv[2])))"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubDouble]:
    """A hub with a large and a small file of one repository, and a file at a URL; this process uses it."""
    files = {REPO: {FILE: DATA, "config.json": b'{"a": 1}'}}
    with HubDouble(files, {"clip/models/tiny.pt": DATA}) as double:
        double.use(monkeypatch, tmp_path)
        yield double


@pytest.fixture(params=["hub", "url"])
def source(request: pytest.FixtureRequest, hub: HubDouble) -> Source:
    """A file of a repository, and one at a URL: both have one way here."""
    return SOURCE if request.param == "hub" else Source(url=hub.url("clip/models/tiny.pt"), sha256=sha256(DATA))


def refused(message: str, source: Source, **options: Any) -> str:
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parts() -> list[int]:
    return [one.bytes for one in stored() if not one.complete]


def test_first_use_and_second(hub, source, capsys, tmp_path):
    assert local(source) is None and not hub.requests
    path = fetch(source)
    assert path.read_bytes() == DATA and path == tmp_path / "ovseg/weights" / source.path
    said = capsys.readouterr().err
    assert "0.3 MB" in said and f"kept in '{path}'" in said and sha256(DATA) in said
    assert ("licence MIT" in said) == bool(source.licence)
    assert len(hub.asked("HEAD")) == 1
    hub.requests.clear()
    assert fetch(source) == path == local(source) == local(source, full=True)
    assert not hub.requests and capsys.readouterr().err == ""
    (one,) = stored()
    assert (one.path, one.source, one.bytes, one.sha256) == (path, source, len(DATA), sha256(DATA))
    assert one.when.startswith("20") and one.complete


def test_quietly_says_nothing(hub, capsys):
    with quietly():
        fetch(SOURCE)
    assert capsys.readouterr().err == ""


def test_a_token_goes_to_the_hub_alone(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    fetch(SOURCE)
    assert {one.cdn for one in hub.requests} == {False, True}
    assert {(one.cdn, one.token) for one in hub.requests} == {(False, hub.token), (True, "")}


def test_small_files_come_without_a_redirect_and_are_checked_too(hub):
    config = Source(REPO, "config.json")
    assert json.loads(fetch(config).read_text()) == {"a": 1}
    hub.corrupt.add("config.json")
    again = Source(REPO, "config.json", hub.commit(REPO))
    refused("with git [0-9a-f]{40}, expected [0-9a-f]{40}; they were thrown away", again)


def test_a_broken_connection_is_taken_up_where_it_broke(hub, source, capsys):
    hub.breaks = [100_000, 50_000]
    assert fetch(source).read_bytes() == DATA
    starts = [one.start for one in hub.requests if one.method == "GET" and (one.cdn or source.url)]
    assert starts == [0, 100_000, 150_000]
    assert "200000 bytes did not come; trying again" in capsys.readouterr().err


def test_a_download_that_was_given_up_is_gone_on_with_by_the_next_run(hub, source):
    hub.breaks = [100_000, 0, 0, 0, 0]
    message = refused(r"broke off \(200000 bytes did not come\); run again to go on: 100000 bytes are kept in", source)
    assert parts() == [100_000] and local(source) is None and str(stored()[0].path) in message
    hub.requests.clear()
    assert fetch(source).read_bytes() == DATA
    assert hub.requests[-1].start == 100_000 and parts() == []


def test_a_killed_download_is_gone_on_with(hub, tmp_path):
    hub.pause = 0.05
    process = subprocess.Popen([sys.executable, "-c", FETCH, REPO, FILE], env=hub.environment(tmp_path))
    while not parts() or parts()[0] < 50_000:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.pause, (have,) = 0.0, parts()
    assert fetch(SOURCE).read_bytes() == DATA
    assert have < len(DATA) and hub.requests[-1].start == have


def test_a_server_that_begins_anew_each_time(hub, source, capsys):
    hub.breaks, hub.ignores_range = [100_000], True
    assert fetch(source).read_bytes() == DATA
    assert "the server cannot go on with a part; from the beginning" in capsys.readouterr().err
    # One that does so and breaks each time comes no further: an end, not a circle.
    hub.repos[REPO][FILE], hub.plain["clip/models/tiny.pt"] = DATA + b"2", DATA + b"2"
    hub.breaks = [100_000] * 99
    refused("broke off", Source(REPO, FILE, hub.commit(REPO)))
    assert len(hub.breaks) == 94


def test_a_part_of_another_file_is_not_gone_on_with(hub, capsys):
    hub.breaks = [100_000, 0, 0, 0, 0]
    refused("broke off", SOURCE)
    hub.repos[REPO][FILE] = other = DATA[::-1]
    assert fetch(SOURCE).read_bytes() == other
    assert "another file than before; the part of 0.1 MB is dropped" in capsys.readouterr().err and not parts()


def test_a_part_that_is_too_long_begins_anew(hub, capsys):
    hub.breaks = [100_000, 0, 0, 0, 0]
    refused("broke off", SOURCE)
    with stored()[0].path.open("ab") as file:
        file.write(bytes(len(DATA)))
    assert fetch(SOURCE).read_bytes() == DATA
    assert "its part is larger than the 300000 bytes" in capsys.readouterr().err


def test_a_part_that_is_whole_is_only_checked(hub):
    hub.breaks = [100_000, 0, 0, 0, 0]
    refused("broke off", SOURCE)
    stored()[0].path.write_bytes(DATA)
    hub.requests.clear()
    assert fetch(SOURCE).read_bytes() == DATA and hub.asked("GET") == []


def test_a_wrong_checksum_is_never_used(hub, source):
    hub.corrupt = {FILE, "tiny.pt"}
    refused(f"300000 bytes with sha256 [0-9a-f]+, expected {sha256(DATA)}; they were thrown away: run again", source)
    assert stored() == [] and local(source) is None
    hub.corrupt = set()
    assert fetch(source).read_bytes() == DATA


def test_the_checksum_of_a_card_counts_more_than_the_hub(hub):
    refused("expected 0123456789", Source(REPO, FILE, sha256="0123456789"))
    assert fetch(Source(REPO, FILE, sha256=sha256(DATA)[:8].upper())).read_bytes() == DATA


def test_a_file_that_changed_on_the_disk_is_found_out_and_fetched_anew(hub, source):
    path = fetch(source)
    before = path.stat()
    path.write_bytes(bytes(len(DATA)))
    with pytest.warns(UserWarning, match=f"is not used: its sha256 is [0-9a-f]+, expected {sha256(DATA)}"):
        assert local(source) is None
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # then only the whole checksum knows
    assert local(source) == path
    with pytest.warns(UserWarning, match="is not used"):
        assert local(source, full=True) is None
    os.utime(path)
    hub.requests.clear()
    with pytest.warns(UserWarning, match="is not used"):
        assert fetch(source).read_bytes() == DATA
    assert hub.requests


def test_a_file_that_was_only_touched_is_the_same(hub):
    path = fetch(SOURCE)
    os.utime(path)
    assert local(SOURCE) == path
    record = json.loads(path.with_name(f".{FILE}.json").read_text())
    assert record["mtime_ns"] == path.stat().st_mtime_ns and record["commit"] == hub.commit(REPO)


def test_gated_without_a_token_says_three_steps_and_the_open_alternative(hub):
    hub.gated[REPO] = 401
    gated = Source(REPO, FILE, gated_alternative="san-vit-b-16")
    message = refused(r"is gated \(401\)", gated)
    for step in (
        "1. make an account, accept the licence at https://huggingface.co/authors/model and wait for consent, ",
        "2. say who you are with `hf auth login` or HF_TOKEN, ",
        "3. run again; or take 'san-vit-b-16', which is open",
    ):
        assert step in message


def test_gated_with_a_token_that_may_not(hub, monkeypatch):
    hub.gated[REPO] = 401
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    steps = r"1\. as the token's owner accept .* and wait for consent, 2\. .* 3\. run again"
    message = refused(rf"is gated \(403\), your token has no access: {steps}", SOURCE)
    assert "which is open" not in message
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert fetch(SOURCE).read_bytes() == DATA
    hub.gated[REPO] = 403
    refused(r"is gated \(403\)", Source(REPO, "config.json"))


def test_what_is_not_there(hub):
    message = refused(r"authors/model has no file 'modell\.safetensors'", Source(REPO, "modell.safetensors"))
    assert "did you mean model.safetensors?" in message
    refused(r"it has config\.json, model\.safetensors", Source(REPO, "zzz"))
    refused("authors/model has no revision 'v9'; expected a branch, tag or commit", Source(REPO, FILE, "v9"))
    refused(
        r"has no repository 'nobody/none' \(401\), or it is private; .* `hf auth login` or HF_TOKEN",
        Source("nobody/none", FILE),
    )
    refused(r"there is nothing at .*/plain/nothing\.pt \(404", Source(url=hub.url("nothing.pt")))
    hub.private.add(REPO)
    refused("or it is private", SOURCE)


def test_the_first_of_several_that_is_there(hub):
    pickled = Source(REPO, "pytorch_model.bin")
    hub.repos[REPO]["pytorch_model.bin"] = b"pickle"
    assert fetch_first([Source(REPO, "none.safetensors"), pickled]).read_bytes() == b"pickle"
    hub.requests.clear()
    assert fetch_first([SOURCE, pickled]).read_bytes() == b"pickle" and not hub.requests  # it is on the disk
    with pytest.raises(DownloadError, match=r"no file 'b\.bin'"):
        fetch_first([Source(REPO, "a.bin"), Source(REPO, "b.bin")])


def test_no_room_is_known_before_the_download(hub):
    hub.sizes = {FILE: 10**15}
    message = refused(
        r"needs 1000000000\.0 MB and the disk of '.*' has [\d.]+ MB left; free some", SOURCE, consent=True
    )
    assert "OVSEG_CACHE" in message and hub.asked("GET") == [] and parts() == []


def test_a_disk_that_fills_up_half_way(hub, monkeypatch):
    class Full:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 100_000

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_error: Any) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[: self.left])
            self.file.flush()
            self.left -= min(self.left, len(data))
            if not self.left:
                raise OSError(errno.ENOSPC, "No space left on device")

        def flush(self) -> None:
            self.file.flush()

    really = Path.open
    monkeypatch.setattr(
        Path,
        "open",
        lambda self, mode="r", *a, **o: (
            Full(really(self, mode))
            if self.name.endswith(".part") and mode in ("ab", "wb")
            else really(self, mode, *a, **o)
        ),
    )
    refused(r"the disk is full, 100000 bytes of authors/model/model\.safetensors are kept in .*free some space", SOURCE)
    assert parts() == [100_000]
    monkeypatch.setattr(Path, "open", really)
    assert fetch(SOURCE).read_bytes() == DATA and hub.requests[-1].start == 100_000


def test_a_slow_server_is_waited_for_and_one_that_stands_still_is_asked_again(hub, source, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.3")
    hub.pause = 0.03  # 19 pieces: longer than the limit in all, never between two of them
    start = time.monotonic()
    assert fetch(source).read_bytes() == DATA and time.monotonic() - start > 0.4
    assert "trying again" not in capsys.readouterr().err
    hub.pause, hub.stalls = 0.0, [100_000]
    again = Source(REPO, FILE, hub.commit(REPO))
    assert fetch(again).read_bytes() == DATA
    assert "timed out; trying again" in capsys.readouterr().err and hub.requests[-1].start == 100_000


def test_a_server_that_says_later(hub, capsys):
    hub.later = [(503, None), (429, "0")]
    assert fetch(SOURCE).read_bytes() == DATA
    said = capsys.readouterr().err
    assert "503 Service Unavailable; trying again" in said and "429 Too Many Requests; trying again in 0 s" in said
    hub.later = [(503, None)] * 99
    refused("gave 503 Service Unavailable for authors/model/config.json; run again later", Source(REPO, "config.json"))
    assert len(hub.later) == 94
    hub.later = [(429, "3600")]
    start = time.monotonic()
    refused("gave 429 .*; run again after 3600 s, as it asks", Source(REPO, "config.json"))
    assert time.monotonic() - start < 1


def test_a_server_may_name_the_hour(hub, capsys):
    hub.later = [(503, formatdate(time.time() - 5, usegmt=True)), (503, "soon")]
    assert fetch(SOURCE).read_bytes() == DATA
    assert capsys.readouterr().err.count("trying again in 0 s") == 2
    hub.later = [(503, formatdate(time.time() + 3600, usegmt=True))]
    refused("gave 503 Service Unavailable for .*; run again later", Source(REPO, "config.json"))


def test_interrupted_by_hand_is_gone_on_with(hub, tmp_path):
    hub.stalls = [50_000]
    process = subprocess.Popen([sys.executable, "-c", FETCH, REPO, FILE], env=hub.environment(tmp_path))
    while not parts():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) != 0 and parts()[0] <= 50_000
    have = parts()[0]
    assert fetch(SOURCE).read_bytes() == DATA and hub.requests[-1].start == have


def test_no_connection_at_all(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = refused(r"http://127\.0\.0\.1:9 does not answer \(.*refused\); check the network and HF_ENDPOINT", SOURCE)
    assert f"put it at '{tmp_path / 'ovseg/weights' / SOURCE.path}'" in message


def test_offline(hub, tmp_path, monkeypatch):
    for variable in ("OVSEG_OFFLINE", "HF_HUB_OFFLINE"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, "1")
            message = refused(
                f"model.safetensors is not on this machine and {variable}=1 is set; unset it, or fetch", SOURCE
            )
    assert not hub.requests
    place = Path(message.rpartition("put it at '")[2].rstrip("'"))
    place.parent.mkdir(parents=True)
    place.write_bytes(DATA)  # as the message says
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    assert fetch(SOURCE) == place and stored()[0].sha256 == sha256(DATA)


def test_a_cache_that_can_only_be_read(hub, tmp_path, monkeypatch):
    path = fetch(SOURCE)
    os.utime(path)
    monkeypatch.setattr("ovseg.checkpoint.hub.store.atomic_write", _nothing_written)
    assert local(SOURCE) == path  # what is there is used, though its record cannot be made new
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "file"))
    refused("cannot be kept in '.*/file/weights/.*; choose a folder that can be written: export OVSEG_CACHE=", SOURCE)


def _nothing_written(path: Path) -> Any:
    raise OSError(errno.EROFS, "Read-only file system")


def test_two_processes_fetch_once(hub, tmp_path):
    command = [sys.executable, "-c", FETCH, REPO, FILE]
    options: dict[str, Any] = {"env": hub.environment(tmp_path), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    hub.pause = 1.0
    first = subprocess.Popen(command, text=True, **options)
    while not parts():
        assert first.poll() is None
        time.sleep(0.02)
    second = subprocess.Popen(command, text=True, **options)
    waits = second.stderr.readline() if second.stderr else ""
    hub.pause = 0.0
    (out, said), (same, more) = first.communicate(timeout=60), second.communicate(timeout=60)
    assert waits == "another process is fetching model.safetensors; waiting for it\n" and more == ""
    assert said.startswith("fetching authors/model/model.safetensors: 0.3 MB, licence mit")
    assert out == same and Path(out.strip()).read_bytes() == DATA
    assert len([one for one in hub.requests if one.method == "GET" and one.cdn]) == 1


def test_threads_fetch_once(hub):
    hub.pause, found = 0.02, list[Path]()
    threads = [threading.Thread(target=lambda: found.append(fetch(SOURCE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(set(found)) == 1
    assert len([one for one in hub.requests if one.method == "GET" and one.cdn]) == 1


def test_a_killed_holder_blocks_nobody(hub, tmp_path):
    hub.stalls = [50_000]
    process = subprocess.Popen([sys.executable, "-c", FETCH, REPO, FILE], env=hub.environment(tmp_path))
    while not parts():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    assert fetch(SOURCE).read_bytes() == DATA and time.monotonic() - start < 5


@pytest.mark.parametrize("installed", [True, False])
def test_files_in_xet_storage_come_by_plain_http(hub, monkeypatch, installed):
    hub.xet = True
    if not installed:
        monkeypatch.setitem(sys.modules, "hf_xet", None)
    hub.breaks = [100_000]
    assert fetch(SOURCE).read_bytes() == DATA and hub.requests[-1].start == 100_000


def test_what_the_hubs_own_client_has_is_used(hub, tmp_path):
    commit = hub.commit(REPO)
    folder = tmp_path / "hf/hub/models--authors--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    theirs = folder / "snapshots" / commit / FILE
    theirs.write_bytes(DATA)
    for revision in ("main", commit):
        assert fetch(Source(REPO, FILE, revision)) == theirs
        assert fetch(Source(REPO, FILE, revision, sha256(DATA))) == theirs
    assert not hub.requests and stored() == []
    theirs.write_bytes(DATA[::-1])
    with pytest.warns(UserWarning, match=r"model\.safetensors' is not used: its sha256"):
        assert fetch(Source(REPO, FILE, sha256=sha256(DATA))) != theirs


def test_what_open_clip_has_fetched_is_used(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    theirs = tmp_path / ".cache/clip/tiny.pt"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(DATA)
    assert fetch(Source(url=hub.url("clip/models/tiny.pt"), sha256=sha256(DATA))) == theirs and not hub.requests


class Bare(BaseHTTPRequestHandler):
    """A server that says neither size nor checksum, and to HEAD not even that it has something."""

    answers: ClassVar[list[bytes]] = []

    def log_message(self, *_args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self.send_error(405)

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(self.answers[0])


def test_a_server_that_says_nothing_of_a_file(hub, monkeypatch):
    monkeypatch.setattr(Bare, "answers", [DATA])
    with ThreadingHTTPServer(("127.0.0.1", 0), Bare) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        bare = Source(url=f"http://127.0.0.1:{server.server_port}/a/weights.pt")
        refused("a download of unknown size", bare)
        assert fetch(bare, consent=True).read_bytes() == DATA
        other = replace(bare, file="other.pt", sha256=sha256(DATA)[:8])
        monkeypatch.setattr(Bare, "answers", [DATA[:1000]])
        refused(r"gave 1000 bytes with sha256 .*; they were thrown away", other, consent=True)
        refused(r"broke off \(1000 bytes came, expected 300000\)", replace(other, size=len(DATA)), consent=True)
        server.shutdown()


def test_a_record_that_cannot_be_written_is_a_line(hub, monkeypatch):
    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Path]:
        raise InputError(f"cannot write '{path}' (No space left on device); choose another place")
        yield path

    monkeypatch.setattr("ovseg.checkpoint.hub.store.atomic_write", full)
    refused("No space left on device", SOURCE)
    assert local(SOURCE) is None


def test_a_disk_that_knows_no_locks(hub, monkeypatch):
    """NFS without its lock daemon."""

    def fail(*_args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    with pytest.warns(UserWarning, match="lies on a disk that knows no locks; see that one process fetches"):
        assert fetch(SOURCE).read_bytes() == DATA
