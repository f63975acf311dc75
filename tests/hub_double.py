"""A double of the Hugging Face hub on this machine: what its client, open_clip and we ask for; faults to order.

    with HubDouble({"owner/name": {"config.json": b"{}", "model.safetensors": data}}) as hub:
        hub.use(monkeypatch, tmp_path)         # this process: endpoint, an empty cache, no longer offline
        ...                                    # or subprocess.run(..., env=hub.environment(tmp_path))
        assert hub.asked("HEAD") == ["/owner/name/resolve/main/config.json"]
        hub.requests.clear()                   # a second use asks nothing: assert not hub.requests

It takes commits, too (`tests.hub_uploads`): ``hub.repos`` has what was pushed, ``hub.private`` what shall not be seen.
Weights (by their ending) are large files as on the hub: the answer is a redirect to a second server, the CDN, with the
checksum and size in ``X-Linked-*``. ``plain`` are files at URLs that are no hub's: ``hub.url("clip/ViT-B-16.pt")``.

Switches; they may be changed at any time, and belong to a file where they name one (the last part of its path):

- ``gated = {"owner/name": 401}``: 401 without a token, and 403 with one that is not ``hub.token``; 403: always 403.
- ``private = {"owner/name"}``: unknown to who has no token.
- ``breaks = [1000, 0]``: the next downloads of weights end after so many bytes, without a word; then they do not.
- ``stalls = [1000]``: likewise, but the connection stays open and silent.
- ``pause = 0.05``: seconds before each piece of 16 KB.
- ``later = [(503, None), (429, "1")]``: the next requests get this status and ``Retry-After``.
- ``ignores_range = True``: a download always begins at the first byte.
- ``corrupt = {"model.safetensors"}``: other bytes than the checksum says, as many.
- ``sizes = {"model.safetensors": 10**12}``: the size that is said of a file.
- ``readers = {"hf_reader"}``: tokens that may read what is private, and write nothing (403).
- ``mangles = {"model.safetensors"}``: what is kept of a file that is pushed is something else.
- ``xet = True``: large files say that they are in Xet storage, too (which the double does not speak).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from tests.hub_uploads import LARGE, Uploads, card_of, etag_of, sha256

OFFLINE = ("OVSEG_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_PIECE = 1 << 14


class Request(NamedTuple):
    """What a client asked for.

    Attributes:
        method: ``HEAD`` or ``GET``.
        path: Without the query.
        start: The first byte that was asked for.
        token: The user's, if it was sent.
        cdn: Whether it went to the second server.
    """

    method: str
    path: str
    start: int
    token: str
    cdn: bool


class HubDouble:
    """Two servers on the loopback device, in threads, from entering the block to leaving it."""

    def __init__(
        self,
        repos: Mapping[str, Mapping[str, bytes]] | None = None,
        plain: Mapping[str, bytes] | None = None,
        licence: str = "mit",
    ) -> None:
        self.repos = {repo: dict(files) for repo, files in (repos or {}).items()}
        self.plain = dict(plain or {})
        self.licence, self.token = licence, "hf_double"
        self.requests: list[Request] = []
        self.gated: dict[str, int] = {}
        self.private: set[str] = set()
        self.breaks: list[int] = []
        self.stalls: list[int] = []
        self.later: list[tuple[int, str | None]] = []
        self.corrupt: set[str] = set()
        self.sizes: dict[str, int] = {}
        self.readers: set[str] = set()
        self.mangles: set[str] = set()
        self.objects: dict[str, bytes] = {}  # large files that were uploaded, by checksum
        self.pause, self.ignores_range, self.xet = 0.0, False, False
        self._lock, self._open = threading.Lock(), threading.Event()
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _handler(self, cdn)) for cdn in (False, True)]

    def __enter__(self) -> HubDouble:
        """Start both servers."""
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them; connections that stand still are closed."""
        self._open.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        """What ``HF_ENDPOINT`` has to be."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn(self) -> str:
        """The address of the second server."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def url(self, path: str) -> str:
        """Return the URL of a plain file."""
        return f"{self.endpoint}/plain/{path}"

    def commit(self, repo: str) -> str:
        """Return the commit that ``main`` stands for; it changes with the files."""
        content = hashlib.sha1()
        for name, data in sorted(self.repos[repo].items()):
            content.update(name.encode() + b"\0" + data)
        return content.hexdigest()

    def asked(self, method: str = "") -> list[str]:
        """Return the paths that were asked for, in order; of one method if it is named."""
        return [one.path for one in self.requests if method in ("", one.method)]

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """Return the environment for a process that is to use the double."""
        without = {key.upper() for key in (*OFFLINE, *PROXIES)}
        own = {key: text for key, text in os.environ.items() if key.upper() not in without}
        return {**own, **self._variables(cache), **more}

    def use(self, patch: pytest.MonkeyPatch, cache: Path) -> None:
        """Let this process use the double, and the hub's client, which reads the environment when it is imported."""
        for key in (*OFFLINE, *PROXIES, *(key.lower() for key in PROXIES)):
            patch.delenv(key, raising=False)
        for key, text in self._variables(cache).items():
            patch.setenv(key, text)
        patch.setattr("ovseg.checkpoint.hub.servers.PAUSE", 0.01)
        patch.setattr("ovseg.checkpoint.hub.network._FOUND", {})
        if constants := sys.modules.get("huggingface_hub.constants"):
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            patch.setattr(constants, "ENDPOINT", self.endpoint)
            patch.setattr(
                constants,
                "HUGGINGFACE_CO_URL_TEMPLATE",
                f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            )
            patch.setattr(constants, "HF_HUB_CACHE", str(cache / "hf/hub"))
            patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "hf/token"))

    def _variables(self, cache: Path) -> dict[str, str]:
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(cache / "hf"), "OVSEG_CACHE": str(cache / "ovseg")}
        return {**own, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}


def _handler(hub: HubDouble, cdn: bool) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        double, is_cdn = hub, cdn

    return Handler


class _Handler(Uploads, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self._answer()

    def do_GET(self) -> None:
        """Answer."""
        self._answer()

    def _begin(self) -> tuple[str, str] | None:
        """Note a request; returns its path and token, None where it was told to come later."""
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        with self.double._lock:
            one = Request(self.command, path, self._start(), token, self.is_cdn)
            self.double.requests.append(one)
            status, rest = self.double.later.pop(0) if self.double.later else (0, None)
        if status:
            self._send(status, b"later", {"Retry-After": rest} if rest else {})
        return None if status else (path, token)

    def _answer(self) -> None:
        if (begun := self._begin()) is None:
            return None
        path, token = begun
        if self.is_cdn or path.startswith("/plain/"):
            data = self._blob(path) if self.is_cdn else self.double.plain.get(path.removeprefix("/plain/"))
            return self._file(path, data) if data is not None else self._send(404)
        if path.startswith("/api/models/"):
            return self._api(path.removeprefix("/api/models/"), token)
        if found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*found.groups(), token)
        return self._send(200 if path == "/" else 404)

    def _allowed(self, repo: str, token: str) -> bool:
        """Refuse as the hub does; False where that was done."""
        hub, known = self.double, token in (self.double.token, *self.double.readers)
        if repo not in hub.repos or (repo in hub.private and not known):
            self._send(404 if token else 401, headers={"X-Error-Code": "RepoNotFound"})
        elif repo in hub.gated and (hub.gated[repo] == 403 or not known):
            status = 403 if token else hub.gated[repo]
            self._send(status, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        else:
            return True
        return False

    def _resolve(self, repo: str, revision: str, name: str, token: str) -> None:
        hub = self.double
        if not self._allowed(repo, token) or not self._known(repo, revision):
            return None
        commit = {"X-Repo-Commit": hub.commit(repo)}
        if (data := hub.repos[repo].get(name)) is None:
            return self._send(404, headers={"X-Error-Code": "EntryNotFound", **commit})
        if not name.endswith(LARGE):
            return self._file(name, data, {**commit, "ETag": f'"{etag_of(name, data)}"'})
        size = hub.sizes.get(name.rpartition("/")[2], len(data))
        headers = {**commit, "X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(size)}
        if hub.xet:
            headers |= {"X-Xet-Hash": sha256(data), "X-Xet-Refresh-Route": f"/api/models/{repo}/xet-read-token/main"}
            headers["Link"] = f'<{hub.endpoint}/api/models/{repo}/xet-read-token/main>; rel="xet-auth"'
        return self._send(302, b"elsewhere", {**headers, "Location": f"{hub.cdn}/{repo}/{sha256(data)}/{name}"})

    def _known(self, repo: str, revision: str) -> bool:
        if revision in ("main", self.double.commit(repo)):
            return True
        self._send(404, headers={"X-Error-Code": "RevisionNotFound"})
        return False

    def _api(self, path: str, token: str) -> None:
        found = re.fullmatch(r"(.+?)(?:/(revision|tree)/([^/]+)(/.*)?)?", path)
        repo, kind, revision, below = found.groups() if found else ("", "", "", "")
        hub = self.double
        hidden = repo not in hub.repos or (repo in hub.private and token not in (hub.token, *hub.readers))
        if (hidden and not self._allowed(repo, token)) or not self._known(repo, revision or "main"):
            return None
        entries = [self._entry(name, data) for name, data in sorted(hub.repos[repo].items())]
        if kind == "tree":
            if below:
                return self._send(404, headers={"X-Error-Code": "EntryNotFound"})
            return self._json(
                [{"type": "file", "path": one["rfilename"], "oid": one["blobId"], **one} for one in entries]
            )
        about = {"id": repo, "modelId": repo, "sha": hub.commit(repo), "private": repo in hub.private, "tags": []}
        about |= {"siblings": entries, "gated": "manual" if repo in hub.gated else False}
        own = {"license": hub.licence} if hub.licence else {}
        return self._json({**about, "cardData": card_of(hub.repos[repo]) or own})

    def _entry(self, name: str, data: bytes) -> dict[str, Any]:
        size = self.double.sizes.get(name.rpartition("/")[2], len(data))
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        large = {"sha256": sha256(data), "oid": sha256(data), "size": size, "pointerSize": 134}
        own = {"rfilename": name, "blobId": git, "size": size}
        return {**own, "lfs": large} if name.endswith(LARGE) else own

    def _blob(self, path: str) -> bytes | None:
        """Return the file of an address of the CDN."""
        return next(
            (
                data
                for repo, files in self.double.repos.items()
                for name, data in files.items()
                if path == f"/{repo}/{sha256(data)}/{name}"
            ),
            None,
        )

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _file(self, path: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        hub, name = self.double, path.rpartition("/")[2]
        data = bytes(byte ^ 255 for byte in data) if name in hub.corrupt else data
        asked = 0 if hub.ignores_range else self._start()
        if asked and asked >= len(data):
            return self._send(416, headers={"Content-Range": f"bytes */{len(data)}"})
        body, end = data[asked:], None
        large = name.endswith(LARGE) and self.command == "GET"
        with hub._lock:
            silent = bool(large and hub.stalls)
            if silent or (large and hub.breaks):
                end = (hub.stalls if silent else hub.breaks).pop(0)
        span = {"Content-Range": f"bytes {asked}-{len(data) - 1}/{len(data)}"} if asked else {}
        self.send_response(206 if asked else 200)
        own = {"ETag": f'"{etag_of(name, data)}"', "Accept-Ranges": "bytes", "Content-Length": str(len(body))}
        for key, text in {**own, **span, **(headers or {})}.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command == "GET":
            self._pour(body if end is None else body[:end], end is not None, silent)

    def _start(self) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        return int(found[1]) if found else 0

    def _pour(self, body: bytes, breaks: bool, silent: bool) -> None:
        with contextlib.suppress(OSError):  # the client has gone
            for start in range(0, len(body), _PIECE):
                time.sleep(self.double.pause)
                self.wfile.write(body[start : start + _PIECE])
            if silent:
                self.double._open.wait(30)
            if breaks:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """Refuse what leaves this machine, within the block: a test that would is a mistake."""
    with pytest.MonkeyPatch.context() as patch:
        connect, look_up = socket.socket.connect, socket.getaddrinfo

        def guarded(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
                raise OSError(f"a test wants to reach {address}; the network is off in tests")
            return connect(self, address)

        def looked_up(host: Any, *args: Any, **options: Any) -> Any:
            if host and not _is_here(host):
                raise socket.gaierror(socket.EAI_NONAME, f"a test looks up '{host}'; the network is off in tests")
            return look_up(host, *args, **options)

        patch.setattr(socket.socket, "connect", guarded)
        patch.setattr(socket, "getaddrinfo", looked_up)
        yield


def _is_here(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host)
    return text in ("localhost", "::1", "0.0.0.0", "::", socket.gethostname()) or text.startswith("127.")
