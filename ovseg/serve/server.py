"""The page as a server: routes for photographs and downloads, the page itself, an end in good order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import quote

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from ovseg._version import __version__
from ovseg.config import examples_root
from ovseg.errors import EnvironmentProblem, OvsegError
from ovseg.serve.guard import Guard
from ovseg.serve.page import build_page, page_style, page_theme
from ovseg.serve.service import Service, examples
from ovseg.serve.work import Busy, Halted, Work

_PRIVATE = {"Cache-Control": "private, no-store"}
_QUICK = 4  # workers for what is quick: why, corrections, downloads
_STATUS = {Busy: 503, Halted: 504}
_HEADER_SECONDS = 30  # for the head of a request to arrive
_DELIVERY = 1.0  # seconds in which what was answered last goes out
_TIDY = 15.0  # seconds between two looks at what is kept


def make_app(service: Service, token: str = "", hosts: list[str] | None = None) -> tuple[Guard, tuple[Work, Work]]:
    """Put the page, its routes and the guard together.

    Args:
        service: What the page does.
        token: That everything asks for; empty asks for none.
        hosts: See `Guard`.

    Returns:
        The app, and the workers of slow and quick requests, to wait for.
    """
    limits = service.limits
    work = Work(limits.workers, limits.waiting, limits.seconds)
    quick = Work(_QUICK, 8 * limits.waiting, limits.seconds, "ovseg-serve-quick")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidy(service))
        yield
        tidying.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _add_routes(app, service, quick)
    page = build_page(service, work, quick)
    app = gr.mount_gradio_app(
        app,
        page,
        path="/",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        blocked_paths=[os.sep],
        show_error=True,
        max_file_size=1,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=page_theme(),
        head=f"<style>{page_style()}</style>",  # as `css` it would lose what it says of narrow screens
    )
    return Guard(app, token, limits, hosts), (work, quick)


async def _tidy(service: Service) -> None:
    """Drop what is kept too long, again and again."""
    while True:
        await asyncio.sleep(min(_TIDY, 60 * service.limits.keep / 4))
        await run_in_threadpool(service.sessions.tidy)


def _add_routes(app: FastAPI, service: Service, quick: Work) -> None:
    """Add what is no part of the page: photographs in and out, downloads, health."""

    async def answer(make: Callable[[], Response]) -> Response:
        try:
            return await run_in_threadpool(quick.call, lambda _: make())
        except OvsegError as error:
            return PlainTextResponse(f"{error}\n", status_code=_STATUS.get(type(error), 400), headers=_PRIVATE)

    @app.get("/health")
    async def health() -> JSONResponse:
        status, code = ("ending", 503) if quick.closed else ("ok", 200)
        return JSONResponse({"status": status, "version": __version__}, status_code=code, headers=_PRIVATE)

    @app.post("/photo")
    async def open_photo(request: Request) -> Response:
        body = bytearray()
        try:
            async for part in request.stream():
                body += part
        except ClientDisconnect:  # nobody is there to be answered
            return Response(status_code=400)
        name = request.query_params.get("name", "photo")
        return await answer(lambda: _json(service.shown(service.open(bytes(body), name).name)))

    @app.post("/example/{name}")
    async def open_example(name: str) -> Response:
        return await answer(lambda: _json({**service.shown(service.open_example(name).name), "ask": examples()[name]}))

    @app.get("/example/{name}")
    async def example(name: str) -> Response:
        if name not in examples():
            return PlainTextResponse("there is no such example\n", status_code=404)
        return Response(await run_in_threadpool((examples_root() / name).read_bytes), media_type="image/jpeg")

    @app.get("/photo/{session}")
    async def photo(session: str) -> Response:
        return await answer(lambda: Response(service.photo(session), media_type="image/jpeg", headers=_PRIVATE))

    @app.get("/download/{session}/{side}/{chosen}")
    async def download(session: str, side: str, chosen: str, option: str = "") -> Response:
        def make() -> Response:
            found = service.download(session, side, chosen, option)
            named = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(found.name)}", **_PRIVATE}
            return Response(found.content, media_type=found.type, headers=named)

        return await answer(make)


def _json(found: dict[str, Any]) -> Response:
    return JSONResponse(found, headers=_PRIVATE)


class _Protocol(H11Protocol):
    """Hangs up on who opens a connection and does not come to a request."""

    def connection_made(self, transport: Any) -> None:
        """Look at the connection from time to time."""
        super().connection_made(transport)
        self.loop.call_later(_HEADER_SECONDS, self._look, self.cycle)

    def _look(self, before: Any) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is before:
            self.transport.close()
        else:
            self.loop.call_later(_HEADER_SECONDS, self._look, self.cycle)


class Server(uvicorn.Server):
    """Ends by a signal when all requests that were taken are answered."""

    def __init__(
        self, config: uvicorn.Config, works: tuple[Work, ...], seconds: float, ready: Callable[[], None]
    ) -> None:
        """Know whom to wait for, how long at most, and what to call when requests and signals are taken."""
        super().__init__(config)
        self._works, self._seconds, self._ready = works, seconds, ready

    async def startup(self, sockets: Any = None) -> None:
        """Begin to answer, and say so; uvicorn returns, too, where it could not."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take signals as the wish to end, and do not raise them again: this is how a server ends."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: Any = None) -> None:
        """Take nothing more, wait for what runs and for its answers to go out, then hang up."""
        for work in self._works:
            work.close()
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        while any(work.running for work in self._works) and loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.05)
        await asyncio.sleep(_DELIVERY)
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # that browsers which listen are hung up on
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Listen at an address, before anything heavy is loaded.

    Args:
        host: A name or an address.
        port: 0 takes a free one.

    Raises:
        EnvironmentProblem: It cannot be listened at.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentProblem(
            f"cannot listen at {host}:{port} ({reason}); choose another --port or --host"
        ) from error


def serve(
    service: Service, sock: socket.socket, token: str, hosts: list[str] | None, ready: Callable[[str], None]
) -> None:
    """Run until a signal comes.

    Args:
        service: What the page does.
        sock: Of `listen`.
        token: See `make_app`.
        hosts: See `Guard`.
        ready: Called with the address when the page answers.
    """
    app, works = make_app(service, token, hosts)
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
        limit_concurrency=1000,
        h11_max_incomplete_event_size=64 * 1024,
    )
    host, port = sock.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    asyncio.run(Server(config, works, service.limits.seconds, lambda: ready(address)).serve([sock]))
