"""The door of the page: who may come in, which addresses there are, and how much may be sent. Plain ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlencode

from ovseg.serve.limits import MEGABYTE, Limits

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_COOKIE = "ovseg_"
_TEXT_BYTES = 10**6  # of a request that carries no photograph
_BODY_SECONDS = 60.0  # for all of a request to arrive
_REST_SECONDS = 5.0  # for what still comes of a request that is refused
_NAME = r"[\w-][\w.-]*"
# What Gradio's page and its clients ask for. Its routes that hand out, fetch or take files are not among them.
_OPEN = (
    r"/(config|theme\.css|favicon\.ico|robots\.txt|manifest\.json)?",
    rf"/(static|assets|svelte)/({_NAME}/)*{_NAME}",
    rf"/gradio_api/(info|theme\.css|startup-events|app_id|heartbeat/{_NAME}|queue/(join|data|status))/?",
    rf"/gradio_api/(call(/v2)?/{_NAME}(/{_NAME})?|cancel|reset|component_server)/?",
    rf"/(health|photo|photo/{_NAME}|example/{_NAME}|download/{_NAME}/{_NAME}/{_NAME})",
)
_ROUTES = re.compile("|".join(f"(?:{route})" for route in _OPEN))
_PHOTO = "/photo"
_OWN_SITE = ("same-origin", "none")
"""What browsers say of requests that come from the page, or from their user."""
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Gradio runs the scripts of its components by `new Function`.
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
        b"object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    ),
)
_LAST = ((b"connection", b"close"),)
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Stands before an app, and answers in one line what it does not let in."""

    def __init__(self, app: App, token: str, limits: Limits, hosts: Iterable[str] | None = None) -> None:
        """Say who may come in.

        Args:
            app: Behind the door.
            token: That everything asks for; empty asks for none.
            limits: Of a photograph, and of all that is being sent at once.
            hosts: Names that the page is called by; None takes any. Those of this machine alone keep away pages that
                lead their own name here.
        """
        self._app, self._token, self._limits = app, token.encode(), limits
        self._cookie = hashlib.sha256(self._token).hexdigest()  # of plain letters, whatever the token is
        self._held = _Held(max(int(limits.memory * MEGABYTE), 2 * limits.bytes))
        self._hosts = None if hosts is None else {*_LOOPBACK, *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self._hosts is not None and re.sub(r":\d+$", "", host).lower() not in self._hosts:
            await _answer(send, 421, f"this page does not answer to the name '{host[:100]}'; open it by 127.0.0.1")
            return
        if scope["method"] != "GET" and headers.get(b"sec-fetch-site", "same-origin") not in _OWN_SITE:
            await _answer(send, 403, "another web site has sent this request; open the page itself")
            return
        if self._token and not await self._known(scope, headers, send):
            return
        if not _ROUTES.fullmatch(scope["path"]):
            await _answer(send, 404, "there is nothing at this address; docs/serve.md lists what there is")
            return
        await self._guarded(scope, headers, receive, send)

    async def _known(self, scope: Scope, headers: dict[bytes, str], send: Send) -> bool:
        """Tell whether a request brings the token; one that brings it in its address gets a cookie for it."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        by_address = query.pop("token", [""])[0]
        scheme, _, given = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(given.strip().encode("latin-1"), self._token):
            return True
        name = f"{_COOKIE}{self._cookie[:8]}"  # a browser has the same cookies for all ports of a machine
        if _same(_cookie(headers.get(b"cookie", ""), name).encode(), self._cookie.encode()):
            return True
        if scope["path"] == "/" and _same(by_address.encode("utf-8", "replace"), self._token):
            rest = urlencode(query, doseq=True)
            # Lax, not Strict: who follows a link from elsewhere to the address with the token comes in, too.
            cookie = f"{name}={self._cookie}; HttpOnly; SameSite=Lax; Path=/"
            extra = [(b"location", f"/{'?' + rest if rest else ''}".encode()), (b"set-cookie", cookie.encode())]
            await _answer(send, 303, "come in", extra)
            return False
        text = "this page asks for its token; open its address with ?token=..., or send 'Authorization: Bearer ...'"
        await _answer(send, 401, text, [(b"www-authenticate", b"Bearer")])
        return False

    async def _guarded(self, scope: Scope, headers: dict[bytes, str], receive: Receive, send: Send) -> None:
        """Run the app; count what is sent to it, and see that it comes in time."""
        most = self._limits.bytes if scope["path"] == _PHOTO else _TEXT_BYTES
        declared = headers.get(b"content-length", "0")
        refused = f"the request is too large; at most {most / 1e6:g} MB are taken here: shrink it"
        if not declared.isdigit() or int(declared) > most:
            await _answer(send, 413 if declared.isdigit() else 400, refused, _LAST, receive)
            return
        counter = _Counter(receive, send, most, refused, self._held)
        try:
            await self._app(scope, counter.receive, counter.send)
        except Exception:
            if not counter.refusal:
                raise
        finally:
            counter.leave()


@dataclass
class _Held:
    """Bytes of all requests that are being read or answered, and how many those may be."""

    most: int
    total: int = 0


class _Counter:
    """Counts what a client sends and waits for it no longer than is right; then it answers in the app's place.

    Attributes:
        refusal: Status and line of that answer; None while all is well.
    """

    def __init__(self, receive: Receive, send: Send, most: int, too_much: str, held: _Held) -> None:
        self.refusal: tuple[int, str] | None = None
        self._receive, self._send, self._most, self._too_much, self._held = receive, send, most, too_much, held
        self._total, self._whole, self._begun = 0, False, False
        self._deadline = asyncio.get_running_loop().time() + _BODY_SECONDS

    async def receive(self) -> Message:
        """Return what comes next; for the app the client is gone where it is refused."""
        if self._whole:  # what comes now is that the client is gone
            return await self._receive()
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except asyncio.TimeoutError:
            line = f"the request did not arrive within {_BODY_SECONDS:g} seconds; send it again"
            return await self._refuse(408, line, {})
        arrived = len(message.get("body", b""))
        self._total += arrived
        self._held.total += arrived
        if self._total > self._most:
            return await self._refuse(413, self._too_much, message)
        if self._held.total > self._held.most:
            line = "more is being sent at once than this page takes; try again later"
            return await self._refuse(503, line, message)
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send what the app answers, with the headers of all answers."""
        if self.refusal:
            return
        if message["type"] == "http.response.start":
            self._begun = True
            message = {**message, "headers": [*message.get("headers", []), *_ALWAYS]}
        await self._send(message)

    def leave(self) -> None:
        """Count what came no more: the app is done with it."""
        self._held.total -= self._total

    async def _refuse(self, status: int, line: str, last: Message) -> Message:
        self.refusal = status, line
        if not self._begun:
            await _answer(self._send, status, line, _LAST, self._receive if last.get("more_body") else None)
        return {"type": "http.disconnect"}


async def _answer(
    send: Send, status: int, line: str, extra: Iterable[tuple[bytes, bytes]] = (), rest: Receive | None = None
) -> None:
    """Answer with one line of text.

    Args:
        send: To the client.
        status: Of HTTP.
        line: Without its end.
        extra: Further headers.
        rest: Where what the client is still sending comes from. It is thrown away for a while before the end: who is
            hung up on while sending gets a reset, and loses the answer.
    """
    body = f"{line}\n".encode("utf-8", "replace")
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_ALWAYS, *extra]})
    await send({"type": "http.response.body", "body": body, "more_body": rest is not None})
    if rest is not None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_throw_away(rest), _REST_SECONDS)
        await send({"type": "http.response.body", "body": b""})


async def _throw_away(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


def _same(given: bytes, secret: bytes) -> bool:
    """Compare in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given, secret)


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return found.value if found else ""
