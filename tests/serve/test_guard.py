from __future__ import annotations

import asyncio
from urllib.parse import urlencode

import pytest

from ovseg.serve.guard import Guard
from ovseg.serve.limits import Limits

TOKEN = "a secret of some length"
LIMITS = Limits(megabytes=0.001, memory=0.002)


async def app(scope, receive, send):
    """Reads all that is sent, and answers with how much that was."""
    total, more = 0, True
    while more:
        message = await receive()
        total, more = total + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": f"{scope['path']} {total}".encode()})


def ask(path="/", headers=None, query="", parts=(b"",), method="GET", **options):
    """Return status, headers and body of one request."""
    guard = Guard(app, options.pop("token", ""), LIMITS, options.pop("hosts", ()))
    given = {"host": "127.0.0.1:7860", **(headers or {})}
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in given.items()],
    }
    left, sent = list(parts), []

    async def receive():
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(one.get("body", b"") for one in sent[1:]).decode()


PHOTO = {"type": "http", "method": "POST", "path": "/photo", "query_string": b"", "headers": [(b"host", b"x")]}
PATHS = (
    "/", "/config", "/health", "/photo", "/photo/x", "/example/a.jpg", "/download/x/A/png", "/assets/x.js",
    "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/call/segment",
    "/gradio_api/component_server", "/gradio_api/file=/etc/passwd", "/anything",
)  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_everything_asks_for_the_token(path):
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"cookie": f"{_cookie_of(TOKEN)[0]}=wrong"},
        {"cookie": ";;=\xff"},
    ):
        status, given, body = ask(path, headers, token=TOKEN)
        assert status == 401 and "asks for its token" in body and TOKEN not in body + str(given)


def test_the_token_opens_by_header_by_cookie_and_by_address():
    for scheme in ("Bearer ", "bearer   "):
        assert ask("/config", {"authorization": f"{scheme}{TOKEN}"}, token=TOKEN)[0] == 200
    status, headers, _ = ask("/", query="token=a+secret+of+some+length&x=1", token=TOKEN)
    cookie = headers[b"set-cookie"].decode()
    assert status == 303 and headers[b"location"] == b"/?x=1" and "HttpOnly; SameSite=Lax" in cookie
    assert ask("/config", {"cookie": cookie.split(";")[0]}, token=TOKEN)[0] == 200
    assert ask("/config", query="token=a+secret+of+some+length", token=TOKEN)[0] == 401
    assert ask("/", query="token=wrong", token=TOKEN)[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/file=/etc/passwd", "/gradio_api/upload",
        "/gradio_api/proxy=http://x/", "/gradio_api/stream/x", "/assets/../../etc/passwd", "/assets/..%2f..%2fetc",
        "/static//etc/passwd", "/example/../x", "/download/a/A/../../x", "/monitoring",
        "/gradio_api/custom_component/1/client/component/x.js", "/gradio_api/token", "/login", "/gradio_api/vibe-code",
        "/gradio_api/run/predict", "/docs", "/openapi.json", "//", "/assets/x\n",
    ],
)  # fmt: skip
def test_there_is_nothing_at_other_addresses(path):
    assert ask(path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""])
def test_another_name_does_not_lead_here(host):
    assert ask(headers={"host": host})[0] == 421
    assert ask(headers={"host": host}, hosts=None)[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "LOCALHOST:1", "[::1]:7860"])
def test_this_machine_has_several_names(host):
    assert ask(headers={"host": host})[0] == 200


def test_more_than_is_taken_is_refused_by_its_head_and_by_its_body():
    assert ask("/photo", {"content-length": "1000"}, parts=[b"x" * 1000])[2] == "/photo 1000"
    status, _, body = ask("/photo", {"content-length": "1001"})
    assert status == 413 and "at most 0.001 MB" in body
    assert ask("/photo", parts=[b"x" * 600, b"x" * 600])[0] == 413
    assert ask("/gradio_api/queue/join", {"content-length": "1000001"})[0] == 413
    assert ask("/photo", {"content-length": "-1"})[0] == 400


@pytest.mark.parametrize("headers", [{}, {"content-length": "6000"}])
def test_who_is_refused_may_send_the_rest(headers):
    """A client that is hung up on while it sends loses the answer."""
    parts, order = [b"x" * 600] * 10, []

    async def receive():
        order.append("part")
        return {"type": "http.request", "body": parts.pop(), "more_body": bool(parts)}

    async def send(message):
        order.append(message.get("status") or len(message["body"]))

    scope = {**PHOTO, "headers": [(b"host", b"x"), *((key.encode(), text.encode()) for key, text in headers.items())]}
    asyncio.run(Guard(app, "", LIMITS, None)(scope, receive, send))
    assert order.count(413) == 1 and order[-1] == 0 and order[-2] == "part" and not parts


def test_who_is_refused_may_not_send_for_ever(monkeypatch):
    monkeypatch.setattr("ovseg.serve.guard._REST_SECONDS", 0.1)
    sent = []

    async def receive():
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"x" * 600, "more_body": True}

    async def send(message):
        sent.append(message)

    asyncio.run(asyncio.wait_for(Guard(app, "", LIMITS, None)(PHOTO, receive, send), 10))
    assert sent[0]["status"] == 413 and not sent[-1].get("more_body")


def test_who_sends_too_slowly_is_told(monkeypatch):
    monkeypatch.setattr("ovseg.serve.guard._BODY_SECONDS", 0.1)
    guard, sent = Guard(app, "", LIMITS, None), []

    async def receive():
        await asyncio.sleep(30)

    async def send(message):
        sent.append(message)

    asyncio.run(asyncio.wait_for(guard(PHOTO, receive, send), 10))
    assert sent[0]["status"] == 408 and b"did not arrive within" in sent[1]["body"]


def test_all_requests_together_hold_no_more_than_the_limit():
    """Who sends while others send as much as is taken is asked to come again; then there is room."""
    guard, answers = Guard(app, "", LIMITS, None), []

    async def send_slowly(parts, go):
        sent, left = [], list(parts)

        async def receive():
            if len(left) == 1:
                await go.wait()
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message):
            sent.append(message)

        await guard(PHOTO, receive, send)
        answers.append((sent[0]["status"], b"".join(one.get("body", b"") for one in sent[1:])))

    async def all_of_them():
        later, now = asyncio.Event(), asyncio.Event()
        now.set()
        slow = [asyncio.create_task(send_slowly([b"x" * 900, b"x"], later)) for _ in range(2)]
        await asyncio.sleep(0.01)
        await send_slowly([b"x" * 300, b"x"], now)
        later.set()
        await asyncio.gather(*slow)
        await send_slowly([b"x" * 900, b"x"], now)

    asyncio.run(all_of_them())
    assert [status for status, _ in answers] == [503, 200, 200, 200]
    assert answers[0][1] == b"more is being sent at once than this page takes; try again later\n"


def test_other_web_sites_cannot_make_a_browser_send_anything():
    for site in ("cross-site", "same-site"):
        status, _, body = ask("/photo", {"sec-fetch-site": site}, method="POST")
        assert status == 403 and "another web site" in body
        assert ask("/", {"sec-fetch-site": site})[0] == 200  # a link leads here
    for site in ("same-origin", "none"):
        assert ask("/photo", {"sec-fetch-site": site}, method="POST")[0] == 200


def _cookie_of(token):
    cookie = ask("/", query=urlencode({"token": token}), token=token)[1][b"set-cookie"].decode()
    return cookie.split(";")[0].split("=")


def test_two_pages_of_one_machine_keep_their_cookies_apart():
    """Browsers send the cookies of a machine to all of its ports."""
    both = "; ".join("=".join(_cookie_of(token)) for token in ("one secret", "another"))
    for token in ("one secret", "another"):
        assert ask("/config", {"cookie": both}, token=token)[0] == 200
    assert ask("/config", {"cookie": both}, token="a third")[0] == 401


@pytest.mark.parametrize("token", ["gehört niemandem", "тайна", "鍵", "a=b;c, d%20"])
def test_a_token_may_have_any_letters(token):
    header = {"authorization": f"Bearer {token}".encode().decode("latin-1")}  # the bytes that curl sends
    assert ask("/config", header, token=token)[0] == 200
    assert ask("/config", {"cookie": "=".join(_cookie_of(token))}, token=token)[0] == 200


def test_answers_tell_browsers_to_be_careful():
    for path in ("/", "/nothing"):
        headers = ask(path)[1]
        assert headers[b"x-content-type-options"] == b"nosniff"
        policy = headers[b"content-security-policy"].decode()
        assert "default-src 'self'" in policy and "http" not in policy and "frame-ancestors 'none'" in policy
