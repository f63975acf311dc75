"""What can go wrong with a download, each as one line: what was got, what was expected, how to mend it."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from ovseg.checkpoint.hub.servers import Offer, reason_of
from ovseg.checkpoint.hub.source import HUB, Source, endpoint
from ovseg.errors import DownloadError
from ovseg.system.cache_dir import cache_advice


class NotThere(DownloadError):
    """A server has no such file, revision or repository."""


def refused(source: Source, error: urllib.error.HTTPError, place: Path, near: str = "") -> DownloadError:
    """Return the error for a status that a server gave.

    Args:
        source: What was asked for; without a file where it was a repository.
        error: The answer.
        place: Where the file would be kept.
        near: Names of files that the repository has, for one that it has not.
    """
    code, said = error.code, (error.headers.get("X-Error-Message") or "").strip()
    kind = (error.headers.get("X-Error-Code") or "") if source.repo else ""
    if kind == "GatedRepo":
        return DownloadError(_gated(source, code))
    if kind == "RevisionNotFound":
        return NotThere(f"{source.repo} has no revision '{source.revision}'; expected a branch, tag or commit: main?")
    if kind == "EntryNotFound":
        at = "" if source.revision == "main" else f" at revision '{source.revision}'"
        return NotThere(f"{source.repo} has no file '{source.file}'{at}; " + (near or "check its name"))
    if kind == "RepoNotFound" or (source.repo and code in (401, 404)):
        token = "" if "credential" not in said.lower() else "your token is not valid; "
        return NotThere(
            f"{endpoint()} has no repository '{source.repo}' ({code}), or it is private; {token}check the name, or say "
            "who you are: `hf auth login` or HF_TOKEN"
        )
    if code == 407:
        return DownloadError(
            f"the proxy on the way to {_host(source)} wants to know who you are (407); name it with your account: "
            "HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT (HTTP_PROXY for http)"
        )
    if code in (404, 410):
        return NotThere(f"there is nothing at {source} ({code} {error.reason}); {by_hand(source, place)}")
    if code == 429 or code >= 500:
        rest = error.headers.get("Retry-After")
        later = f" after {rest} s, as it asks" if rest and rest.isdecimal() else " later"
        return DownloadError(f"{_host(source)} gave {code} {error.reason} for {source}; run again{later}")
    why = f": {said}" if said else ""
    return DownloadError(f"{_host(source)} gave {code} {error.reason} for {source}{why}; {by_hand(source, place)}")


def _gated(source: Source, code: int) -> str:
    token = "`hf auth login` or HF_TOKEN"
    if code == 403:
        why, agreed = "your token has no access", _agreed(source, "as the token's owner")
        known = f"see that it may read gated repositories ({token})"
    else:
        why, agreed, known = "it is not for everybody", _agreed(source), f"say who you are with {token}"
    return f"{source.repo} is gated ({code}), {why}: {_steps(agreed, known, 'run again')}{_or_open(source)}"


def _agreed(source: Source, who: str = "make an account,") -> str:
    """Return the step that opens a gated repository."""
    return f"{who} accept the licence at {HUB}/{source.repo} and wait for consent"


def _steps(*steps: str) -> str:
    return ", ".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _or_open(source: Source) -> str:
    return f"; or take '{source.gated_alternative}', which is open" if source.gated_alternative else ""


def unreached(source: Source, error: Exception, place: Path) -> DownloadError:
    """Return the error for a server that gave no answer."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        mend = "a proxy may sign with its own certificate: name its file as SSL_CERT_FILE"
    else:
        used = ("HTTPS_PROXY", "HTTP_PROXY", *(["HF_ENDPOINT"] if source.repo else ()))
        names = [name for name in used if os.environ.get(name)]
        names += [name.lower() for name in ("HTTPS_PROXY", "HTTP_PROXY") if os.environ.get(name.lower())]
        mend = f"check the network and {', '.join(names) or 'whether it wants a proxy (HTTPS_PROXY)'}"
    return DownloadError(f"{_host(source)} does not answer ({reason_of(error)}); {mend}; or {by_hand(source, place)}")


def no_hub(source: Source, error: ValueError) -> DownloadError:
    """Return the error for a server that answers, and not as a hub does."""
    return DownloadError(
        f"{_host(source)} answers as no hub does ({reason_of(error)}), expected the list of files of {source.repo}; "
        "log in to the network, or check HF_ENDPOINT"
    )


def broke(source: Source, reason: str, part: Path) -> DownloadError:
    """Return the error for a connection that broke again and again."""
    have = part.stat().st_size if part.is_file() else 0
    return DownloadError(
        f"the download of {source} broke off ({reason}); run again to go on: {have} bytes are kept in '{part}'"
    )


def no_file(source: Source, offer: Offer, got: str, place: Path) -> DownloadError:
    """Return the error for an answer that is not the file."""
    size = "" if offer.size is None else f" of {offer.size} bytes"
    return DownloadError(
        f"{_host(source)} gives {got}, expected {place.name}{size}; look at {offer.address} in a browser, and run again"
    )


def off(what: str, why: str, by_hand: str) -> DownloadError:
    """Return the error for what is not here while the network is not to be used."""
    return DownloadError(f"{what} is not on this machine and {why}; unset it, or {by_hand}")


def no_room(what: str, needed: int, free: int, folder: Path) -> DownloadError:
    """Return the error for a disk that is too small, found out before the download."""
    return DownloadError(
        f"{what} needs {needed / 1e6:.1f} MB and the disk of '{folder}' has {free / 1e6:.1f} MB left; free some "
        f"(`ovseg cache`), or choose another: {cache_advice()}"
    )


def disk_full(source: Source, part: Path) -> DownloadError:
    """Return the error for a disk that became full half-way."""
    have = part.stat().st_size if part.is_file() else 0
    return DownloadError(
        f"the disk is full, {have} bytes of {source} are kept in '{part}'; free some space and run again to go on, or "
        "delete that file"
    )


def not_writable(source: Source, folder: Path, error: OSError) -> DownloadError:
    """Return the error for a cache folder that can only be read."""
    return DownloadError(
        f"{source} cannot be kept in '{folder}' ({error.strerror or error}); choose a folder that can be written: "
        f"{cache_advice()}"
    )


def wrong_content(source: Source, address: str, found: str, expected: str, size: int) -> DownloadError:
    """Return the error for a file that is not the expected one; it is not kept."""
    mirror = "" if endpoint() == HUB or source.url else f", or HF_ENDPOINT ({endpoint()}) serves another file"
    return DownloadError(
        f"{address} gave {size} bytes with {found}, expected {expected}; they were thrown away: run again{mirror}"
    )


def by_hand(source: Source, place: Path) -> str:
    """Return the way that is always open."""
    fetch, put = f"fetch {source.address} where there is a network", f"put it at '{place}'"
    if not source.gated:
        return f"{fetch} and {put}"
    return f"get it by hand, for it is gated: {_steps(_agreed(source), fetch, put)}{_or_open(source)}"


def _host(source: Source) -> str:
    return urlsplit(source.url).netloc if source.url else endpoint()
