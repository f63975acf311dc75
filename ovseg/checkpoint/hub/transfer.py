"""Brings the bytes of a file into a part beside its place; a part that is there is gone on with."""

from __future__ import annotations

import errno
import urllib.error
from pathlib import Path
from typing import Any

from ovseg.checkpoint.hub.manners import Told, say
from ovseg.checkpoint.hub.servers import BREAKS, Offer, comes_back, plain_etag, reason_of, send, timeout_of_bytes

_CHUNK = 1 << 18


class DiskProblem(Exception):
    """The part cannot be written; the cause is the system's error."""


class Broken(Exception):
    """The connection broke again and again; the cause is what was said last."""


class NoFile(Exception):
    """What a server gives is not the file, in words; asking again does not help."""


def receive(offer: Offer, part: Path, what: str, told: Told) -> None:
    """Bring a file into ``part``, which may hold its beginning.

    A connection that breaks or stands still is taken up where it was, as often as that brings it forward; then, or
    where a server says "later", a bounded number of times.

    Args:
        offer: What the server has.
        part: Where to.
        what: Is fetched, for lines.
        told: Called with the number of bytes that are there.

    Raises:
        DiskProblem: The part cannot be written.
        Broken: It came no further.
        NoFile: The server gives something else.
        HTTPError: The server refuses.
    """
    best = attempt = 0
    while True:
        have = _size(part)
        if offer.size is not None and have > offer.size:
            _restart(part, what, f"its part is larger than the {offer.size} bytes of the file")
            have = 0
        if have == offer.size:
            part.touch()  # of a file without a byte there is no part yet
            told(have)
            return
        attempt += 1
        try:
            _once(offer, part, have, what, told)
            if offer.size is None or _size(part) == offer.size:
                return
            raise ConnectionError(f"{_size(part)} bytes came, expected {offer.size}")
        except BREAKS as error:
            if _size(part) > best:
                best, attempt = _size(part), 1
            if not comes_back(error, attempt, what):
                if isinstance(error, urllib.error.HTTPError):
                    raise
                raise Broken(reason_of(error)) from error


def _once(offer: Offer, part: Path, have: int, what: str, told: Told) -> None:
    response = _get(offer, have)
    if have and response.status != 200 and not _goes_on(response, have, offer):
        response.close()
        _restart(part, what, "the server has another end for its part")
        response, have = _get(offer, 0), 0
    elif have and response.status == 200:
        _restart(part, what, "the server cannot go on with a part")
        have = 0
    with response:
        if other := _other_than(response, offer):
            raise NoFile(other)
        _write(response, part, have, told)


def _get(offer: Offer, have: int) -> Any:
    """Ask for the bytes from ``have`` on; "not satisfiable" is an answer too."""
    try:
        return send(offer.address, headers={"Range": f"bytes={have}-"} if have else {}, timeout=timeout_of_bytes())[0]
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        return error


def _goes_on(response: Any, have: int, offer: Offer) -> bool:
    """Tell whether an answer begins where the part ends, and is of the file that was offered."""
    if response.status != 206:
        return False
    unit, _, span = (response.headers.get("Content-Range") or "").partition(" ")
    start, _, rest = span.partition("-")
    whole = rest.partition("/")[2]
    # To whom a hub sends us, he knows files by other names; there the checksum finds out in the end.
    etag = "" if offer.commit else plain_etag(response.headers.get("ETag") or "")
    same = not etag or not offer.etag or etag == offer.etag
    return same and unit == "bytes" and start == str(have) and (offer.size is None or whole in (str(offer.size), "*"))


def _other_than(response: Any, offer: Offer) -> str:
    """Say what an answer holds in the place of a file; empty where nothing speaks against it."""
    said = response.headers
    if response.status not in (200, 206):
        return f"nothing ({response.status} {response.reason})"
    if (said.get_content_type() if said.get("Content-Type") else "") in ("text/html", "application/xhtml+xml"):
        return "a web page, such as the login of a network"
    if (said.get("Content-Encoding") or "identity").strip().lower() != "identity":
        return f"a file packed as {said['Content-Encoding']}, which nobody asked for"
    if response.status == 200 and None not in (response.length, offer.size) and response.length != offer.size:
        return f"a file of {response.length} bytes"
    return ""


def _write(response: Any, part: Path, have: int, told: Told) -> None:
    try:
        file = part.open("ab" if have else "wb")
    except OSError as error:
        raise DiskProblem from error
    with file:
        told(have)
        while chunk := response.read1(_CHUNK):  # what has come; read() would lose it where the rest never does
            try:
                file.write(chunk)
                file.flush()
            except OSError as error:
                raise DiskProblem from error
            have += len(chunk)
            told(have)
    if response.length:  # http.client says nothing of a body that is cut
        raise ConnectionError(f"{response.length} bytes did not come")


def _restart(part: Path, what: str, why: str) -> None:
    say(f"{what}: {why}; from the beginning")
    part.unlink(missing_ok=True)


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def is_full(error: OSError | None) -> bool:
    """Tell whether an error says that a disk or a quota is full."""
    return error is not None and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
