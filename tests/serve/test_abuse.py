"""What people do to a page that is open to them: twenty kinds, against one server that stays as it was."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from PIL import Image

from tests.conftest import make_photo
from tests.serve.conftest import Page, encoded, running, until

pytestmark = pytest.mark.slow
WORDS = "sky|blue sky, grass, sand"
CLIENTS, SECONDS, SPARE = 20, 60.0, 50.0
SECRET = "the contents of a file beside the server"
LEAKS = (SECRET, "root:", "Traceback", "/site-packages/", 'File "')


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    """A page whose folder holds secrets, with short memories so that they can be watched to end."""
    folder = tmp_path_factory.mktemp("beside")
    for name in ("words.txt", ".env", "secret.png"):
        (folder / name).write_text(SECRET, encoding="utf-8")
    with running("--keep", "0.25", "--max-megabytes", "4", "--max-pixels", "20000000", folder=folder) as found:
        yield found
        found.process.terminate()
        complaints = found.process.communicate(timeout=60)[1]
        # Gradio writes one where a call has too few values; none may come from us.
        assert found.process.returncode == 0 and "/ovseg/" not in complaints, complaints


@pytest.fixture(scope="module")
def level(page) -> float:
    """Megabytes that the page holds when it has worked for a while."""
    photos = [encoded(make_photo(600, 500, seed)) for seed in range(4)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda number: _ask(page, f"warm {number}, cold", photos[number % 4]), range(4 * CLIENTS)))
    return _settled(page)


@pytest.fixture(autouse=True)
def alive(page, level) -> Iterator[None]:
    """After every case the page is there, answers, and has written no traceback."""
    yield
    assert page.process.poll() is None
    assert httpx.get(f"{page.address}/health", timeout=30).json()["status"] == "ok"
    assert len(_ask(page, WORDS)["classes"]) == 3


def _post(page, content, name="x.jpg", **options):
    return httpx.post(f"{page.address}/photo", params={"name": name}, content=content, timeout=60, **options)


def _ask(page, words, content=None):
    found = _post(page, content or encoded(make_photo(96, 72)))
    assert found.status_code == 200, found.text
    asked = httpx.post(
        f"{page.address}/gradio_api/call/segment",
        json={"data": [found.json()["session"], words, "", "", "A"]},
        timeout=60,
    ).json()["event_id"]
    return _told(page, asked)


def _told(page, asked):
    with httpx.stream("GET", f"{page.address}/gradio_api/call/segment/{asked}", timeout=120) as lines:
        data = [line.removeprefix("data: ") for line in lines.iter_lines() if line.startswith("data: ")]
    found = json.loads(data[-1])
    return found[0] if isinstance(found, list) else found


def _settled(page) -> float:
    """Megabytes once everything that was opened has expired."""
    time.sleep(22)
    return page.memory()


def _refused(answer, status, line):
    assert answer.status_code == status and line in answer.text and answer.text.count("\n") == 1
    _clean(answer.text)


def _clean(text):
    assert not any(leak in str(text) for leak in LEAKS), text


def _bomb(width, height):
    """A PNG of a few bytes that claims to be large, and is whole."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 7) // 8 + 1) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


class TestUploads:
    def test_01_more_bytes_than_are_taken(self, page):
        _refused(_post(page, b"\xff\xd8" + b"x" * 5_000_000), 413, "at most 4 MB are taken here")

    def test_02_more_bytes_than_were_said(self, page):
        def endless():
            for _ in range(100):
                yield b"x" * 100_000

        _refused(_post(page, endless()), 413, "at most 4 MB")

    def test_03_a_bomb_of_pixels(self, page):
        content = _bomb(20_000, 20_000)
        assert len(content) < 100_000
        _refused(_post(page, content, "bomb.png"), 400, "20000x20000, more than 20,000,000 pixels")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
    def test_04_truncated_files(self, page, kind):
        whole = encoded(make_photo(200, 150), kind)
        for part in (0.1, 0.5, 0.9):
            found = _post(page, whole[: int(len(whole) * part)], f"x.{kind.lower()}")
            assert found.status_code in (200, 400)
            _clean(found.text)

    @pytest.mark.parametrize(
        "content",
        [b"", b"hello", b"%PDF-1.7", b"PK\x03\x04" + bytes(100), b"<svg xmlns='x'/>", b"GIF89a", bytes(1000)],
        ids=["nothing", "text", "pdf", "zip", "svg", "half-gif", "zeros"],
    )
    def test_05_other_kinds_of_files(self, page, content):
        found = _post(page, content)
        assert found.status_code == 400 and found.text.count("\n") == 1
        _clean(found.text)

    @pytest.mark.parametrize(
        "name",
        [
            "../../etc/passwd",
            "/etc/passwd",
            "..\\..\\windows.png",
            "a" * 5000,
            "x\r\nSet-Cookie: a=b",
            "\0.png",
            "<b>.png",
        ],
    )
    def test_06_names_that_lead_elsewhere(self, page, name):
        found = _post(page, encoded(make_photo(96, 72)), name)
        assert found.status_code == 200 and len(found.json()["name"]) <= 100 and "/" not in found.json()["name"]
        own = found.json()["session"]
        Client(page.address, verbose=False).predict(own, WORDS, api_name="/segment")
        for kind in ("labels", "dataset"):
            given = httpx.get(f"{page.address}/download/{own}/A/{kind}", timeout=60)
            told = given.headers["content-disposition"]
            assert given.status_code == 200 and "set-cookie" not in given.headers
            assert "/" not in told and "%2F" not in told and ".." not in told and "<" not in told


class TestAddresses:
    @pytest.mark.parametrize(
        "path",
        [
            "/gradio_api/file=/etc/passwd", "/gradio_api/file=words.txt", "/file=.env", "/gradio_api/file/secret.png",
            "/assets/../../../../etc/passwd", "/static/..%2f..%2f..%2fetc%2fpasswd", "/assets/%2e%2e/%2e%2e/etc/passwd",
            "/example/..%2f..%2fwords.txt", "/example/words.txt", "/photo/..%2f..%2fetc", "/download/a/A/..%2f..%2fx",
            "/gradio_api/proxy=http://127.0.0.1:1/", "/gradio_api/custom_component/x/client/component/..%2f..%2fx",
            "/svelte/..%2f..%2f..%2fetc%2fpasswd", "/theme.css/../../etc/passwd", "//etc/passwd",
        ],
    )  # fmt: skip
    def test_07_files_of_the_server(self, page, path):
        """Sent as they stand, for clients tidy addresses up."""
        host, port = page.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), 30) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: raw.recv(65536), b"")).decode("utf-8", "replace")
        assert answer.split()[1] in ("400", "404")
        _clean(answer)

    def test_08_files_by_way_of_the_interface(self, page):
        """Gradio takes files as data of a call, and would fetch addresses; no function here takes one."""
        for data in ({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, {"path": "http://127.0.0.1:1/x"}):
            for name in ("segment", "why"):
                asked = httpx.post(
                    f"{page.address}/gradio_api/call/{name}", json={"data": [data, "words.txt"]}, timeout=60
                )
                if asked.status_code == 200:
                    with httpx.stream(
                        "GET", f"{page.address}/gradio_api/call/{name}/{asked.json()['event_id']}", timeout=60
                    ) as told:
                        _clean("".join(told.iter_lines()))
                _clean(asked.text)
        assert httpx.post(f"{page.address}/gradio_api/upload", files={"files": b"x"}).status_code == 404

    def test_09_functions_of_the_page_that_are_not_there(self, page):
        for body in (
            {"fn_name": "__init__", "component_id": 1, "session_hash": "x", "data": []},
            {"data": 1},
            [1, 2],
            "x",
        ):
            found = httpx.post(f"{page.address}/gradio_api/component_server", json=body, timeout=30)
            assert found.status_code >= 400
            _clean(found.text)
        for data in ([], [1], [None] * 9, {"x": 1}, "x" * 500_000):
            found = httpx.post(f"{page.address}/gradio_api/call/segment", json={"data": data}, timeout=30)
            _clean(found.text)

    def test_10_another_name_for_this_machine(self, page):
        found = httpx.get(page.address, headers={"Host": "evil.example"})
        _refused(found, 421, "does not answer to the name 'evil.example'")


class TestWords:
    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (", ".join(f"w{i}" for i in range(10_000)), "this page takes 1,000"),
            ("x" * 900_000, "letters; this page takes 100,000"),
            ("|".join(f"word {i}" for i in range(2_000)), "this page takes 1,000"),
        ],
        ids=["10000 words", "900000 letters", "2000 synonyms"],
    )
    def test_11_too_many(self, page, words, line):
        own = _post(page, encoded(make_photo(96, 72))).json()["session"]
        with pytest.raises(AppError, match=line):
            Client(page.address, verbose=False).predict(own, words, api_name="/segment")

    @pytest.mark.parametrize(
        "name",
        ["<script>alert(1)", '"><img src=x onerror=alert(1)>', "${7*7}", "{{7*7}}", "'; DROP TABLE x; --", "a\x00b"],
    )
    def test_12_names_that_are_programs_elsewhere(self, page, name):
        found = _ask(page, f"{name}|another, sand")
        _clean(found)
        if "error" not in str(found)[:20] and isinstance(found, dict) and "classes" in found:
            assert found["classes"][0]["name"] == name

    @pytest.mark.parametrize(
        "words", ["words.txt", "./words.txt", "/etc/passwd", "~/.bashrc", ".env", "[" * 5000, "{" * 90_000]
    )
    def test_13_files_and_depths(self, page, words):
        _clean(_ask(page, words))

    def test_14_models_that_are_not_offered(self, page):
        own = _post(page, encoded(make_photo(96, 72))).json()["session"]
        client = Client(page.address, verbose=False)
        for model in ("/etc", "../..", "sclip/mini", "sclip/ViT-B-16/openai", "san/../../x.yaml", "x" * 10_000):
            with pytest.raises(AppError, match="unknown model"):
                client.predict(own, WORDS, model, api_name="/segment")

    def test_15_photographs_of_others(self, page):
        """Names of sessions cannot be guessed, and what is near to one opens nothing."""
        own = _post(page, encoded(make_photo(96, 72))).json()["session"]
        for guess in ("", own[:-1], own.swapcase(), "A" * len(own), "*"):
            assert httpx.get(f"{page.address}/photo/{guess}").status_code in (400, 404, 405)


class TestConnections:
    def test_16_many_slow_clients_hold_nobody_up(self, page):
        host, port = page.address.removeprefix("http://").split(":")
        slow = [socket.create_connection((host, int(port)), 30) for _ in range(100)]
        try:
            for one in slow[:50]:
                one.sendall(b"POST /photo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\nx")
            for one in slow[50:]:
                one.sendall(b"GET / HTTP/1.1\r\nHo")
            start = time.monotonic()
            assert len(_ask(page, "sky, grass")["classes"]) == 2
            assert time.monotonic() - start < 20
            assert until(lambda: all(_hung_up(one) for one in slow), 90)
        finally:
            for one in slow:
                one.close()

    def test_17_clients_that_are_killed(self, page):
        """In the middle of an upload, of a request, of an answer."""
        host, port = page.address.removeprefix("http://").split(":")
        content = encoded(make_photo(900, 700))
        own = _post(page, content).json()["session"]
        body = json.dumps({"data": [own, ", ".join(f"thing {i}" for i in range(800)), "", "", "A"]})
        head = "POST /gradio_api/call/segment HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        whole = f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
        upload = f"POST /photo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        for sent in (upload[: len(upload) // 2], upload, whole[: len(whole) // 2], whole):
            for _ in range(5):
                raw = socket.create_connection((host, int(port)), 30)
                raw.sendall(sent)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.close()  # by a reset, as when a process dies

    def test_18_what_is_no_http(self, page):
        host, port = page.address.removeprefix("http://").split(":")
        for sent in (
            b"\x16\x03\x01" + bytes(200),
            b"\0" * 1000,
            b"GET " + b"x" * 100_000,
            b"BREW / HTCPCP/1.0\r\n\r\n",
        ):
            with socket.create_connection((host, int(port)), 30) as raw, contextlib.suppress(OSError):
                raw.sendall(sent)
                raw.settimeout(2)
                _clean(raw.recv(65536).decode("utf-8", "replace"))

    def test_19_more_requests_than_may_wait(self, page):
        """Some are sent away with a line, the others are answered rightly, and no one waits for ever."""
        content = encoded(make_photo(300, 200))
        owns = [_post(page, content).json()["session"] for _ in range(4)]

        def one(number):
            words = f"first {number}, second {number}"
            asked = httpx.post(
                f"{page.address}/gradio_api/call/segment",
                json={"data": [owns[number % 4], words, "", "", "A"]},
                timeout=60,
            )
            if asked.status_code != 200:
                return "busy"
            found = _told(page, asked.json()["event_id"])
            if not isinstance(found, dict) or "classes" not in found:
                assert "as many as this page takes" in str(found) or "not here any more" in str(found), found
                return "busy"
            return [entry["name"] for entry in found["classes"]] == words.split(", ")

        with ThreadPoolExecutor(120) as pool:
            found = list(pool.map(one, range(240)))
        assert False not in found and True in found

    def test_20_twenty_clients_for_a_minute_and_the_memory_comes_back(self, page, level):
        """Each gets exactly its own classes, in its own order, every time."""
        end, answered, lock = time.monotonic() + SECONDS, [], threading.Lock()

        def one(number):
            rounds, rng = 0, np.random.default_rng(number)
            client = Client(page.address, verbose=False)
            while time.monotonic() < end:
                size = rng.integers(60, 700, 2)
                own = _post(page, encoded(make_photo(*map(int, size), seed=number))).json()["session"]
                for turn in range(3):
                    names = [f"client {number} turn {rounds} {turn} word {i}" for i in range(int(rng.integers(2, 30)))]
                    found = client.predict(own, ", ".join(names), api_name="/segment")
                    assert [entry["name"] for entry in found["classes"]] == names
                    assert (found["height"], found["width"]) == (size[1], size[0])
                    why = client.predict(own, 1, 1, api_name="/why")
                    assert {entry["name"] for entry in why["top"]} <= set(names)
                rounds += 1
            with lock:
                answered.append(rounds)

        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(one, range(CLIENTS)))
        assert len(answered) == CLIENTS and min(answered) >= 1
        after = _settled(page)
        print(f"{sum(answered)} rounds; memory {level:.0f} MB before, {after:.0f} MB after")
        assert abs(after - level) <= SPARE, f"{level:.0f} MB before, {after:.0f} MB after"


def _hung_up(raw: socket.socket) -> bool:
    raw.settimeout(0.01)
    try:
        return raw.recv(65536) == b"" or True
    except TimeoutError:
        return False
    except OSError:
        return True


def test_nothing_was_left_on_the_disk(page):
    """Neither photographs nor downloads, in the folder of the server or among temporary files."""
    folder = Path(f"/proc/{page.process.pid}/cwd").resolve()
    assert {path.name for path in folder.iterdir()} == {"words.txt", ".env", "secret.png"}
    opened = (
        Path(f"/proc/{page.process.pid}/fd") / name.name for name in Path(f"/proc/{page.process.pid}/fd").iterdir()
    )
    assert not [str(path.resolve()) for path in opened if str(path.resolve()).startswith("/tmp/ovseg-")]


def test_a_picture_is_still_a_picture():
    assert Image.open(io.BytesIO(_bomb(8, 8))).size == (8, 8)
