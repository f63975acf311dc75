"""Requests to a hub or another server: redirects, the user's token, answers that mean "later"."""

from __future__ import annotations

import http.client
import json
import os
import re
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from ovseg._version import __version__
from ovseg.checkpoint.hub.manners import say
from ovseg.checkpoint.hub.network import is_true, opener
from ovseg.checkpoint.hub.source import Source, endpoint
from ovseg.errors import DownloadError

TRIES = 5
"""Attempts without a byte more than before, until a download is given up."""
LONGEST_WAIT = 60.0
"""Seconds; a server that wants a longer rest is told to the user instead."""
BREAKS: tuple[type[Exception], ...] = (OSError, http.client.HTTPException)
"""What sockets, TLS and http.client raise when a connection fails."""

LINKED_SIZE = "x-linked-size"
PAUSE = 1.0
"""Seconds before the second attempt; each further one waits twice as long."""

_REDIRECTS = (301, 302, 303, 307, 308)
_LATER = (408, 425, 429, 500, 502, 503, 504)
_MOST_REDIRECTS = 8
_DAY = 86_400
_FEW = 10.0  # seconds without a byte, the hub client's own defaults

T = TypeVar("T")


class Elsewhere(OSError):
    """A server to which another one sends us does not answer; a firewall may let the first pass, and not this one.

    Attributes:
        reason: Why the connection failed.
    """

    def __init__(self, host: str, reason: object) -> None:
        super().__init__(f"{host}, to which it sends us: {reason}")
        self.reason = reason


@dataclass(frozen=True)
class Offer:
    """What a server says of a file.

    Attributes:
        address: Where it is to be got.
        size: In bytes; None where that is not said.
        etag: Of a hub the SHA-256 of a large file or git's hash of a small one; of other servers whatever they like.
        commit: What the revision of a repository stands for.
    """

    address: str
    size: int | None = None
    etag: str = ""
    commit: str = ""


def timeout_of_answers() -> float:
    """Return how many seconds a server may take to answer: ``HF_HUB_ETAG_TIMEOUT`` or 10.

    Raises:
        DownloadError: It is no such number.
    """
    return _seconds("HF_HUB_ETAG_TIMEOUT")


def timeout_of_bytes() -> float:
    """Return how many seconds a download may stand still: ``HF_HUB_DOWNLOAD_TIMEOUT`` or 10.

    Raises:
        DownloadError: It is no such number.
    """
    return _seconds("HF_HUB_DOWNLOAD_TIMEOUT")


def _seconds(variable: str) -> float:
    said = os.environ.get(variable, "").strip()
    try:
        found = float(said) if said else _FEW
    except ValueError:
        found = 0.0
    if not 0 < found <= _DAY:
        raise DownloadError(f"{variable} is '{said}'; expected seconds above 0 and up to {_DAY}: 30, or unset it")
    return found


def offer_of(source: Source) -> Offer:
    """Ask what a server has of a file, without fetching it.

    Raises:
        HTTPError: It has none, or does not give it.
        OSError, HTTPException: There is no connection.
    """
    headers = patiently(lambda: _head(source), str(source))
    said = headers.get("x-linked-size") or headers.get("content-length") or ""
    etag = plain_etag(headers.get("x-linked-etag") or headers.get("etag") or "")
    commit = headers.get("x-repo-commit", "") if source.repo else ""
    address = source.address_at(commit) if commit else source.address
    size = int(said) if said.isdecimal() else 0
    known = bool(size or commit)  # others than a hub say 0 where they do not know
    return Offer(address, size if known else source.size, etag, commit)


def plain_etag(text: str) -> str:
    """Return an ETag without what stands around it."""
    return text.removeprefix("W/").strip('"')


def _head(source: Source) -> Mapping[str, str]:
    """Return the headers of a file, those of the hub over those of the server that it sends us to."""
    try:
        response, headers = send(source.address, "HEAD", timeout=timeout_of_answers(), until=LINKED_SIZE)
    except urllib.error.HTTPError as error:
        if source.repo or error.code not in (403, 405, 501):  # addresses that are signed for GET alone, old servers
            raise
        response, headers = send(source.address, timeout=timeout_of_answers())
    response.close()
    return headers


def described(repo: str, revision: str) -> dict[str, Any]:
    """Return what the hub says of a repository: commit, files with sizes and checksums, licence.

    Raises:
        HTTPError: It has none, or does not tell.
        OSError, HTTPException: There is no connection.
        ValueError: The answer is no such list.
    """
    address = f"{endpoint()}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"

    def ask() -> bytes:
        response, _ = send(address, timeout=timeout_of_answers())
        with response:
            return bytes(response.read())

    answer = json.loads(patiently(ask, address))
    if not isinstance(answer, dict):
        raise ValueError("an answer that is not an object")
    entries = answer.get("siblings") or []
    if not isinstance(entries, list) or not all(isinstance(one, dict) and one.get("rfilename") for one in entries):
        raise ValueError("files without names")
    return answer


def licence_of(described_as: Mapping[str, Any]) -> str:
    """Return the licence of a repository from what the hub says of it; empty where it says nothing."""
    card, tags = described_as.get("cardData"), described_as.get("tags")
    said = [card[key] for key in ("license_name", "license") if card.get(key)] if isinstance(card, dict) else []
    words = map(str, tags if isinstance(tags, list) else ())
    return str([*said, *(word.removeprefix("license:") for word in words if word.startswith("license:")), ""][0])


def send(
    address: str, method: str = "GET", headers: Mapping[str, str] | None = None, timeout: float = _FEW, until: str = ""
) -> tuple[Any, dict[str, str]]:
    """Send a request and follow redirects; the user's token goes to the hub alone, never to whom it sends us.

    Args:
        address: Where to.
        method: ``HEAD`` or ``GET``.
        headers: To be sent along.
        timeout: Seconds for each step.
        until: A header; a redirect that has it is taken for the answer.

    Returns:
        The answer, to be closed; and the headers of all steps by lower-case name, of which the first win.

    Raises:
        HTTPError: The status is an error, or a redirect leads out of the web.
        OSError, HTTPException: There is no connection, or there are too many redirects.
    """
    seen, first = dict[str, str](), address
    for _ in range(_MOST_REDIRECTS):
        try:
            own = {"User-Agent": f"ovseg/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
            request = urllib.request.Request(address, headers={**own, **_token(address)}, method=method)
            response = opener().open(request, timeout=timeout)
            return response, {**_lower(response.headers), **seen}
        except urllib.error.HTTPError as error:
            # Servers write letters and blanks into addresses as they are.
            place = quote(error.headers.get("Location") or "", safe=string.punctuation, encoding="latin-1")
            target = urljoin(address, place)
            if error.code not in _REDIRECTS or target == address or urlsplit(target).scheme not in ("http", "https"):
                raise
            of_redirect = ("content-length", "content-type", "etag")  # of its own few words, not of the file
            seen = {**{key: text for key, text in _lower(error.headers).items() if key not in of_redirect}, **seen}
            if until and until in seen:
                return error, seen
            error.close()
            address = target
        except ValueError as error:  # of an address that is none
            raise http.client.InvalidURL(f"an address that leads nowhere: {error}") from error
        except BREAKS as error:
            if address == first:
                raise
            raise Elsewhere(urlsplit(address).netloc, getattr(error, "reason", error)) from error
    raise http.client.HTTPException(f"more than {_MOST_REDIRECTS} redirects")


def _lower(headers: Message) -> dict[str, str]:
    return {key.lower(): text for key, text in headers.items()}


def _token(address: str) -> dict[str, str]:
    """Return the header with the user's token for an address of the hub.

    Raises:
        DownloadError: It cannot be sent.
    """
    hub, asked = urlsplit(endpoint()), urlsplit(address)
    if (hub.scheme, hub.netloc) != (asked.scheme, asked.netloc) or is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        return {}
    from huggingface_hub import get_token

    token = get_token()
    if token and not re.fullmatch("[!-~]+", token):  # it is never shown
        raise DownloadError("HF_TOKEN holds blanks or letters that no token has; copy it anew, or run `hf auth login`")
    return {"Authorization": f"Bearer {token}"} if token else {}


def patiently(action: Callable[[], T], what: str) -> T:
    """Do what asks a server, again where it says "later", a bounded number of times.

    Raises:
        HTTPError: It said so too often, wants a longer rest than we give, or said something else.
    """
    attempt = 1
    while True:
        try:
            return action()
        except urllib.error.HTTPError as error:
            if not comes_back(error, attempt, what):
                raise
        attempt += 1


def comes_back(error: Exception, attempt: int, what: str) -> bool:
    """Wait before the next attempt, and say so; False where another one is of no use."""
    if attempt >= TRIES:
        return False
    wait = min(PAUSE * 2 ** (attempt - 1), LONGEST_WAIT)
    reason = reason_of(error)
    if isinstance(error, urllib.error.HTTPError):
        if error.code not in _LATER:
            return False
        asked = _rest(error)
        if asked is not None and asked > LONGEST_WAIT:
            return False
        wait = wait if asked is None else asked
        error.close()
    say(f"{what}: {reason}; trying again in {wait:.0f} s ({attempt} of {TRIES - 1})")
    time.sleep(wait)
    return True


def reason_of(error: Exception) -> str:
    """Say in a few words why a connection failed, or how a server refused."""
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    text = " ".join(str(error if isinstance(error, Elsewhere) else getattr(error, "reason", error)).split())
    return text[:160] or type(error).__name__


def _rest(error: urllib.error.HTTPError) -> float | None:
    """Return the seconds that a server wants to be left alone; None where it does not say."""
    said = (error.headers.get("Retry-After") or "").strip()
    if said.isdecimal():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
