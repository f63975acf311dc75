"""Servers of odd manners: what they give in the place of a file is never kept, and none of it is a traceback."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from ovseg.checkpoint.hub import Source, fetch, fetch_repository, local, reachable, stored
from ovseg.checkpoint.hub.repository import cost_of_repository
from ovseg.errors import DownloadError, DownloadRefused, WeightsError
from tests.hub_double import HubDouble

DATA, OTHER = np.random.default_rng(1).bytes(200_000), np.random.default_rng(2).bytes(200_000)
REPO, FILE = "authors/model", "model.safetensors"


class Asked(BaseHTTPRequestHandler):
    """A request, which the function of a test answers."""

    protocol_version = "HTTP/1.1"
    answer: Callable[[Asked], None]

    def log_message(self, *_args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        type(self).answer(self)

    do_GET = do_HEAD

    @property
    def start(self) -> int:
        return int((self.headers.get("Range") or "bytes=0-")[6:-1])

    def say(self, status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command == "GET":
            with contextlib.suppress(OSError):
                self.wfile.write(body)


@contextlib.contextmanager
def server(answer: Callable[[Asked], None]) -> Iterator[str]:
    """Run a server and yield its address."""
    kind = type("Own", (Asked,), {"answer": staticmethod(answer)})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as own:
        own.daemon_threads = True
        threading.Thread(target=own.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{own.server_port}"
        own.shutdown()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and no waiting between attempts."""
    with HubDouble() as hub:
        hub.use(monkeypatch, tmp_path)


def refused(source: Source, message: str) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        fetch(source, consent=True)
    assert "\n" not in str(caught.value) and local(source) is None
    assert source.repo or "HF_ENDPOINT" not in str(caught.value)  # which is not asked for a plain URL


@pytest.mark.parametrize(
    ("status", "body", "headers", "message"),
    [
        (200, b"<html>log in</html>", {"Content-Type": "text/html; charset=utf-8"}, "gives a web page, such as"),
        (204, b"", {}, r"gives nothing \(204 No Content\)"),
        (200, gzip.compress(DATA), {"Content-Encoding": "gzip"}, "gives a file packed as gzip, which nobody asked for"),
        (200, b"", {}, "gives 0 bytes that end too early, expected w.pt; look at http"),
    ],
)
@pytest.mark.parametrize("hub", [True, False])
def test_what_is_no_file_is_not_kept(monkeypatch, hub, status, body, headers, message):
    with server(lambda asked: asked.say(status, body, headers)) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        refused(Source(REPO, "w.pt", licence="MIT") if hub else Source(url=f"{address}/w.pt"), message)
    assert stored() == []


@pytest.mark.parametrize("said", ["0", "abc", "-5"])
def test_a_size_that_is_none_is_not_believed(said):
    with server(lambda asked: asked.say(200, DATA, {"Content-Length": said} if asked.command == "HEAD" else {})) as url:
        assert fetch(Source(url=f"{url}/w.pt"), consent=True).read_bytes() == DATA


@pytest.mark.parametrize("said", ["1000", "300000"])
def test_two_sizes_are_an_error_at_once(said):
    gets: list[int] = []

    def answer(asked: Asked) -> None:
        gets.extend([1] if asked.command == "GET" else [])
        asked.say(200, DATA, {"Content-Length": said} if asked.command == "HEAD" else {})

    with server(answer) as url:
        refused(Source(url=f"{url}/w.pt"), f"gives a file of 200000 bytes, expected w.pt of {said} bytes; look at")
    assert len(gets) == 1


def test_half_a_file_of_which_nobody_knows_the_size_is_not_kept():
    whole = save({"a": np.zeros((100, 100), np.float32)})

    def answer(asked: Asked) -> None:
        asked.close_connection = True
        asked.send_response(200)
        asked.end_headers()
        asked.wfile.write(body if asked.command == "GET" else b"")

    with server(answer) as url:
        body = whole[:5000]
        refused(Source(url=f"{url}/w.safetensors"), "gives 5000 bytes that end too early")
        body = whole
        assert fetch(Source(url=f"{url}/w.safetensors"), consent=True).read_bytes() == whole


def test_a_file_that_changes_between_two_parts_is_not_mixed():
    """Same size, no checksum: its ETag alone tells."""
    now = {"data": DATA, "etag": '"one"'}

    def answer(asked: Asked) -> None:
        data, etag = now["data"], {"ETag": now["etag"]}
        if asked.command == "GET" and data is DATA:
            now.update(data=OTHER, etag='"two"')
            asked.close_connection = True
            return asked.say(200, DATA[:100_000], {**etag, "Content-Length": "200000"})
        if asked.start:
            span = {"Content-Range": f"bytes {asked.start}-199999/200000"}
            return asked.say(206, data[asked.start :], {**etag, **span})
        return asked.say(200, data, etag)

    with server(answer) as url:
        assert fetch(Source(url=f"{url}/w.pt"), consent=True).read_bytes() == OTHER


def test_a_server_that_gives_less_than_the_rest_is_asked_for_more():
    def answer(asked: Asked) -> None:
        if not asked.start:
            asked.close_connection = asked.command == "GET"
            return asked.say(200, DATA[:50_000] if asked.command == "GET" else b"", {"Content-Length": "200000"})
        piece = DATA[asked.start : asked.start + 50_000]
        return asked.say(206, piece, {"Content-Range": f"bytes {asked.start}-{asked.start + len(piece) - 1}/200000"})

    with server(answer) as url:
        assert fetch(Source(url=f"{url}/w.pt"), consent=True).read_bytes() == DATA


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("http://[bad/", "an address that leads nowhere: Invalid IPv6 URL"),
        ("file:///etc/passwd", r"gave 302 Found.* not allowed"),
        ("", "gave 302 Found"),
        ("http://exa\x01mple/", "does not answer"),
        ("/again", "more than 8 redirects|gave 302 Found"),
    ],
)
def test_redirects_that_lead_nowhere(place, message):
    with server(lambda asked: asked.say(302, b"", {"Location": place})) as url:
        refused(Source(url=f"{url}/w.pt"), message)


def test_a_host_that_a_firewall_keeps_from_us_is_named():
    """The hub lets itself be asked; the files lie on another host."""
    with server(lambda asked: asked.say(302, b"", {"Location": "http://127.0.0.1:9/w.pt"})) as url:
        refused(Source(url=f"{url}/w.pt"), r"127\.0\.0\.1:9, to which it sends us: .*refused")
        headers = {"Location": "http://127.0.0.1:9/w.pt", "X-Linked-Size": "1000", "X-Repo-Commit": "c" * 40}
    with server(lambda asked: asked.say(302, b"", headers)) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", url)
        refused(Source(REPO, "w.pt", licence="MIT"), r"broke off \(127\.0\.0\.1:9, to which it sends us: .* refused\)")


@pytest.mark.parametrize("place", ["/elsewhere/ä b.pt", "/elsewhere/%C3%A4%20b.pt?a=ü&b=%26"])
def test_redirects_with_letters_and_blanks_are_followed(place):
    paths: list[str] = []

    def answer(asked: Asked) -> None:
        paths.append(asked.path)
        if asked.path == "/w.pt":
            return asked.say(302, b"", {"Location": place.encode().decode("latin-1")})
        return asked.say(200, DATA)

    with server(answer) as url:
        assert fetch(Source(url=f"{url}/w.pt"), consent=True).read_bytes() == DATA
    assert "/elsewhere/%C3%A4%20b.pt" in paths[-1] and ("%26" in paths[-1]) == ("%26" in place)


@pytest.mark.parametrize(
    "said",
    ["hf-mirror.com", "ftp://x.org", "http://a b.org", "http://[::1", "https://", "//x.org", "http://x.org:99999"],
)
def test_an_endpoint_that_is_no_address(monkeypatch, said):
    monkeypatch.setenv("HF_ENDPOINT", said)
    for ask in (lambda: fetch(Source(REPO, FILE)), lambda: fetch_repository(REPO), reachable):
        with pytest.raises(DownloadError, match="which is no address; expected one such as https://"):
            ask()


@pytest.mark.parametrize("repo", ["müller/clip", "own er/clip", "own/clip?x=1", "own/clip#a", "own/cl:ip", "own/\n"])
def test_names_that_no_repository_has(repo):
    for ask in (lambda: Source(repo, FILE), lambda: fetch_repository(repo)):
        with pytest.raises(WeightsError, match="is no repository; expected OWNER/NAME"):
            ask()


@pytest.mark.parametrize("variable", ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"])
@pytest.mark.parametrize("said", ["-1", "0", "nan", "inf", "1e20", "abc"])
def test_seconds_that_are_none(monkeypatch, variable, said):
    with server(lambda asked: asked.say(200, DATA)) as url:
        monkeypatch.setenv(variable, said)
        refused(Source(url=f"{url}/w.pt"), f"{variable} is '{said}'; expected seconds above 0 and up to 86400")


def hub_that_says(answer: object) -> Callable[[Asked], None]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    def say(asked: Asked) -> None:
        asked.say(200, body if asked.path.startswith("/api/") else b"{}" * 5, {"X-Repo-Commit": "c" * 40})

    return say


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>log in</html>", r"answers as no hub does \(.*\), expected the list of files of authors/model; log"),
        (b"{", "answers as no hub does"),
        ([], r"answers as no hub does \(an answer that is not an object\)"),
        ({"siblings": [{}]}, r"answers as no hub does \(files without names\)"),
        ({"siblings": [{"rfilename": None}]}, "files without names"),
        ({"siblings": [1]}, "files without names"),
        ({"siblings": "abc"}, "files without names"),
        ({"siblings": None}, r"has no config\.json, .*; it has no files"),
    ],
)
def test_a_list_of_files_that_is_none(monkeypatch, answer, message):
    with server(hub_that_says(answer)) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(DownloadError, match=message) as caught:
            fetch_repository(REPO, consent=True)
    assert "\n" not in str(caught.value) and stored() == []


@pytest.mark.parametrize("more", [{}, {"size": "12"}, {"lfs": "x"}, {"lfs": {"oid": ""}}])
def test_sizes_that_a_hub_does_not_say_count_as_large(monkeypatch, more):
    """Mirrors list files without their sizes."""
    files = [{"rfilename": name, **more} for name in ("config.json", FILE)]
    with server(hub_that_says({"siblings": files, "sha": "c" * 40, "tags": 5, "cardData": "x"})) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(DownloadRefused, match=r"'hf:a/b' is a download of unknown size \(licence: not stated\)"):
            fetch_repository(REPO, name="hf:a/b")
        assert stored() == [] and cost_of_repository(REPO) == (None, "")
        assert (fetch_repository(REPO, consent=True) / FILE).read_bytes() == b"{}" * 5


@pytest.mark.parametrize("token", ["hf_ü雪", "hf_a b", "hf_a\nX-Other: b"])
def test_a_token_that_cannot_be_sent_is_not_shown(monkeypatch, token):
    with server(lambda asked: asked.say(200, DATA)) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
        with pytest.raises(DownloadError, match="HF_TOKEN holds blanks or letters that no token has") as caught:
            fetch(Source(REPO, FILE))
    assert token not in str(caught.value)


def test_a_proxy_that_wants_an_account(monkeypatch):
    with server(lambda asked: asked.say(407)) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
        refused(Source(REPO, FILE), r"the proxy on the way to http://hub\.invalid wants to know who you are \(407\)")
