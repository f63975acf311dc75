"""Fetching a file: from the disk if it is there, else from where it comes from, once for all processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import urllib.error
import warnings
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from ovseg.checkpoint.hub import problems
from ovseg.checkpoint.hub.manners import agree, megabytes, say, shown
from ovseg.checkpoint.hub.network import offline
from ovseg.checkpoint.hub.problems import NotThere
from ovseg.checkpoint.hub.servers import BREAKS, Offer, described, licence_of, offer_of
from ovseg.checkpoint.hub.source import Source
from ovseg.checkpoint.hub.store import PART, etag_of, kept, local, now, place_of, write_record
from ovseg.checkpoint.hub.transfer import Broken, DiskProblem, NoFile, is_full, receive
from ovseg.checkpoint.whole import is_whole
from ovseg.errors import DownloadError, InputError
from ovseg.system.values import short_hash

_CHUNK = 1 << 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_SHA256, _SHA1 = 64, 40  # hex digits


def fetch(source: Source, name: str = "", consent: bool = False) -> Path:
    """Return a file of weights: the one on this disk, else fetched into the folder of weights.

    Before a download its size and licence are said, somebody agrees to one of more than 100 MB (`consent`, a terminal,
    or ``OVSEG_DOWNLOAD=yes``), and the space on the disk is looked at. A part that an earlier download left is gone on
    with; two processes that want the same file fetch it once. The checksum is compared before the file is used.

    Args:
        source: What is wanted.
        name: By which the user calls it, for ``ovseg download NAME`` in messages.
        consent: The download was asked for in so many words.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched; the message says why and what mends it.
    """
    return fetch_first([source], name, consent)


def fetch_first(sources: Sequence[Source], name: str = "", consent: bool = False) -> Path:
    """Return the first file of several that mean the same weights, such as one that is safetensors and one that is not.

    What is on this disk comes before what has to be fetched; a file that a server does not have makes way for the next.

    Args:
        sources: The first is liked best; at least one.
        name: By which the user calls it.
        consent: The download was asked for in so many words.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: None is here and none can be fetched.
    """
    for source in sources:
        if path := local(source):
            return path
    if why := offline():
        raise problems.off(str(sources[0]), why, problems.by_hand(sources[0], place_of(sources[0])))
    missing = None
    for source in sources:
        try:
            offer = ask(source, hint=source is sources[-1])
        except NotThere as error:
            missing = error
            continue
        licence = source.licence or _licence(source)
        command = f"ovseg download {name}" if name else ""
        agree(name or str(source), offer.size, licence, place_of(source), consent, command)
        return bring(source, offer, licence)
    raise missing or NotThere("no weights were named; expected at least one source")


def ask(source: Source, hint: bool = True) -> Offer:
    """Ask what a server has of a file.

    Args:
        source: The file.
        hint: Name similar ones for a file that a repository has not; that asks once more.

    Raises:
        NotThere: It has none.
        DownloadError: It does not answer, or refuses.
    """
    try:
        return offer_of(source)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            absent = hint and error.headers.get("X-Error-Code") == "EntryNotFound"
            raise problems.refused(source, error, place_of(source), _near(source) if absent else "") from error
    except BREAKS as error:
        raise problems.unreached(source, error, place_of(source)) from error


def bring(source: Source, offer: Offer, licence: str = "") -> Path:
    """Fetch a file that somebody has agreed to; waits where another process is at it.

    Args:
        source: What is wanted.
        offer: What the server said of it.
        licence: In words, to be said.

    Raises:
        DownloadError: It cannot be fetched or kept, or is another file than expected.
    """
    place = place_of(source)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place):
            if path := kept_as(source, offer):  # the other process has fetched it
                return path
            return _bring(source, offer, place, licence)
    except OSError as error:
        raise problems.not_writable(source, place.parent, error) from error
    except InputError as error:  # the record could not be written
        raise DownloadError(str(error)) from error


def kept_as(source: Source, offer: Offer) -> Path | None:
    """Return a file that was fetched if it is still the one that the server has; files of a model belong together."""
    known = etag_of(source)
    if known and offer.etag and known != offer.etag:
        say(f"{source}: the server has another file than the one that is kept")
        return None
    return kept(source)


def _bring(source: Source, offer: Offer, place: Path, licence: str) -> Path:
    part = _part_of(place, offer)
    if not offer.etag and offer.size is None:  # nothing tells whether a part is one of this file
        part.unlink(missing_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    require_room(str(source), (offer.size or 0) - have, place.parent)
    on = f", going on after {megabytes(have)}" if have else ""
    said = f", licence {licence}" if licence else ""
    say(f"fetching {source}: {megabytes(offer.size)}{said}{on}; it is kept in '{place}'")
    try:
        with shown(place.name, offer.size) as told:
            receive(offer, part, place.name, told)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise problems.refused(source, error, place) from error
    except Broken as error:
        raise problems.broke(source, str(error), part) from error
    except NoFile as error:
        raise problems.no_file(source, offer, str(error), place) from error
    except DiskProblem as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else OSError(str(error))
        if is_full(cause):
            raise problems.disk_full(source, part) from error
        raise problems.not_writable(source, place.parent, cause) from error
    sums = _check(source, offer, part, place)
    write_record(place, source, sums.sha256, offer.commit, offer.etag, now(), of=part)
    part.replace(place)
    say(f"fetched {place.name}: {megabytes(place.stat().st_size)}, sha256 {sums.sha256}")
    return place


def require_room(what: str, needed: int, folder: Path) -> None:
    """Return if the disk of a folder has room for so many bytes.

    Raises:
        DownloadError: It has not.
        OSError: There is no such folder.
    """
    if needed > (free := shutil.disk_usage(folder).free):
        raise problems.no_room(what, needed, free, folder)


def _part_of(place: Path, offer: Offer) -> Path:
    """Return the part of a file as the server has it now; those of what it had before are dropped, which is said."""
    same = short_hash(f"{offer.etag or offer.commit} {offer.size}")
    part = place.with_name(f".{place.name}.{same}{PART}")
    for other in place.parent.glob(f".{_literal(place.name)}.{'?' * len(same)}{PART}"):
        if other != part:
            say(f"{place.name}: another file than before; the part of {megabytes(other.stat().st_size)} is dropped")
            other.unlink(missing_ok=True)
    return part


def _literal(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


class _Sums(NamedTuple):
    sha256: str
    git: str


def _check(source: Source, offer: Offer, part: Path, place: Path) -> _Sums:
    """Compare what came with what the source and the server say, or with itself; what is another is thrown away."""
    size = part.stat().st_size
    sums = _sums(part, size)
    expected = [("sha256", source.sha256)]
    if source.repo and len(offer.etag) in (_SHA256, _SHA1):
        expected.append(("sha256" if len(offer.etag) == _SHA256 else "git", offer.etag))
    for kind, wanted in expected:
        found: str = getattr(sums, kind)
        if wanted and not found.startswith(wanted.lower()):
            part.unlink()
            raise problems.wrong_content(source, offer.address, f"{kind} {found}", wanted, size)
    if offer.size is None and not any(wanted for _, wanted in expected) and not is_whole(part):
        part.unlink()
        raise problems.no_file(source, offer, f"{size} bytes that end too early", place)
    return sums


def _sums(path: Path, size: int) -> _Sums:
    """Return the SHA-256 of a file and the hash that git gives it, by which hubs name small files."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            sha256.update(chunk)
            git.update(chunk)
    return _Sums(sha256.hexdigest(), git.hexdigest())


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Keep other processes and threads from fetching the same file; one that comes later waits, and says so.

    The lock is the system's and ends with its process, however that ends.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(place.with_name(f".{place.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is fetching {place.name}; waiting for it")
            lock.acquire()
    except (NotImplementedError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"'{place.parent}' lies on a disk that knows no locks; see that one process fetches", stacklevel=2
        )
    try:
        yield
    finally:
        lock.release()


def _licence(source: Source) -> str:
    """Return the licence that the hub states; empty where it states none or does not answer that."""
    if not source.repo:
        return ""
    with contextlib.suppress(*BREAKS, ValueError):
        return licence_of(described(source.repo, source.revision))
    return ""


def _near(source: Source) -> str:
    """Return names of files that the repository has and that look like the one it has not."""
    with contextlib.suppress(*BREAKS, ValueError, KeyError, TypeError):
        names = [str(one["rfilename"]) for one in described(source.repo, source.revision).get("siblings", ())]
        near = get_close_matches(source.file, names, n=3, cutoff=0.5)
        return f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(names[:8]) or 'none'}"
    return ""
