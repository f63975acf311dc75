"""Who agrees to a large download: an argument, a person at a terminal, the environment; nobody by accident."""

from __future__ import annotations

import io
import os
import pty
import sys
from pathlib import Path

import pytest

from ovseg.checkpoint.hub import Source, fetch, fetch_repository, local, manners
from ovseg.errors import DownloadRefused
from tests.hub_double import HubDouble

REPO, FILE = "authors/model", "model.safetensors"
FETCH = "import sys; from ovseg.checkpoint.hub import Source, fetch; print(fetch(Source(sys.argv[1], sys.argv[2])))"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with a file of 200 000 bytes, where 100 000 are large."""
    with HubDouble({REPO: {FILE: bytes(200_000), "config.json": b"{}"}}, {"big.pt": bytes(200_000)}) as double:
        double.use(monkeypatch, tmp_path)
        monkeypatch.setattr(manners, "LARGE", 100_000)
        monkeypatch.delenv("OVSEG_DOWNLOAD", raising=False)
        yield double


class Terminal(io.StringIO):
    """A stream at a terminal."""

    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch, answer: str) -> Terminal:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_nobody_to_ask(hub):
    with pytest.raises(DownloadRefused) as caught:
        fetch(Source(REPO, FILE), name="san-vit-b-16")
    message = str(caught.value)
    assert message.startswith("'san-vit-b-16' is a download of 0.2 MB (licence: mit) into '")
    assert message.endswith("nobody to ask; run `ovseg download san-vit-b-16`, or set OVSEG_DOWNLOAD=yes")
    assert "\n" not in message and hub.asked("GET") == [f"/api/models/{REPO}/revision/main"]
    with pytest.raises(DownloadRefused, match=r"\(licence: not stated\).*; set OVSEG_DOWNLOAD=yes$"):
        fetch(Source(url=hub.url("big.pt")))
    assert fetch(Source(REPO, "config.json")).read_bytes() == b"{}"  # small


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_agreed(hub, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("OVSEG_DOWNLOAD", "yes")
    assert fetch(Source(REPO, FILE), consent=how == "argument").stat().st_size == 200_000
    hub.requests.clear()
    assert fetch(Source(REPO, FILE)) and not hub.requests


def test_the_environment_says_no_and_nobody_is_asked(hub, monkeypatch):
    monkeypatch.setenv("OVSEG_DOWNLOAD", "no")
    stream = at_terminal(monkeypatch, "y\n")
    with pytest.raises(DownloadRefused, match="and OVSEG_DOWNLOAD is 'no'"):
        fetch(Source(REPO, FILE))
    assert stream.getvalue() == ""


@pytest.mark.parametrize("answer", ["y\n", "YES\n", " yes \n"])
def test_a_person_agrees(hub, monkeypatch, answer):
    stream = at_terminal(monkeypatch, answer)
    assert fetch(Source(REPO, FILE, licence="MIT")).is_file()
    asked = stream.getvalue()
    assert "'authors/model/model.safetensors' is a download of 0.2 MB (licence: MIT) into" in asked
    assert "Fetch it? [y/N] " in asked


@pytest.mark.parametrize("answer", ["\n", "n\n", "", "yo\n"])
def test_a_person_does_not(hub, monkeypatch, answer):
    at_terminal(monkeypatch, answer)
    with pytest.raises(DownloadRefused, match="which you declined"):
        fetch(Source(REPO, FILE))
    assert local(Source(REPO, FILE)) is None


def test_a_size_that_is_not_said_counts_as_large():
    with pytest.raises(DownloadRefused, match="a download of unknown size"):
        manners.agree("x", None, "", Path("here"), False, "")
    manners.agree("x", 100_000_000, "", Path("here"), False, "")
    with pytest.raises(DownloadRefused, match="a download of 100 MB"):
        manners.agree("x", 100_000_001, "", Path("here"), False, "")


def test_a_repository_is_agreed_to_as_a_whole(hub, monkeypatch):
    hub.repos[REPO] = {"config.json": b"{}", "tokenizer.json": bytes(60_000), FILE: bytes(60_000)}
    with pytest.raises(
        DownloadRefused, match=r"'x' is a download of 0\.12 MB \(licence: mit\) into '.*/authors/model/main'"
    ):
        fetch_repository(REPO, name="x")
    assert fetch_repository(REPO, consent=True).is_dir()


def test_sizes_in_words():
    found = [manners.megabytes(size) for size in (None, 0, 999, 12_345, 1_500_000, 350_700_000)]
    assert found == ["unknown size", "0.001 MB", "0.001 MB", "0.0123 MB", "1.5 MB", "351 MB"]


def test_a_real_terminal_is_asked_and_sees_a_bar(tmp_path):
    with HubDouble({REPO: {FILE: bytes(101_000_000)}}) as hub:
        master, slave = pty.openpty()
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-c", FETCH, REPO, FILE],
            hub.environment(tmp_path, TERM="xterm", COLUMNS="100"),
            file_actions=[(os.POSIX_SPAWN_DUP2, slave, 0), (os.POSIX_SPAWN_DUP2, slave, 2)],
        )
        os.close(slave)
        said = b""
        while b"[y/N] " not in said:
            said += os.read(master, 4096)
        assert b"is a download of 101 MB (licence: mit) into" in said.replace(b"\r\n", b"")
        os.write(master, b"y\n")
        with open(master, "rb", buffering=0) as terminal:
            try:
                while piece := terminal.read(4096):
                    said += piece
            except OSError:  # the other end has gone
                pass
        assert os.waitpid(pid, 0)[1] == 0
    assert b"101.0 MB" in said and b"/s" in said and b"sha256" in said
    assert (tmp_path / "ovseg/weights" / Source(REPO, FILE).path).stat().st_size == 101_000_000


def test_lines_now_and_then_where_there_is_no_terminal(hub, monkeypatch, capsys):
    monkeypatch.setattr(manners, "EVERY", 0.0)
    fetch(Source(REPO, FILE), consent=True)
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("model.safetensors: ") and line.endswith(" of 0.2 MB") for line in lines)
