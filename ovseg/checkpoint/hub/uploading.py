"""Files that go to a repository of the hub, in one commit: by the hub's own client, with our manners and messages."""

from __future__ import annotations

import contextlib
import hashlib
import os
import urllib.error
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.checkpoint.hub.network import offline
from ovseg.checkpoint.hub.servers import BREAKS, described, reason_of
from ovseg.checkpoint.hub.source import Source, endpoint
from ovseg.errors import UploadError, WeightsError
from ovseg.system.files import file_hash
from ovseg.system.values import some

_EXISTS, _CHANGED = 409, 412
_OF_THE_HUB = ".gitattributes"  # which a repository has from the start


@dataclass(frozen=True)
class Uploaded:
    """What a push has come to.

    Attributes:
        repo: ``OWNER/NAME``.
        commit: Of the hub; it stays, whatever is pushed later.
        private: Whether the hub shows it to its owners alone.
    """

    repo: str
    commit: str
    private: bool

    @property
    def address(self) -> str:
        """The page of the repository."""
        return f"{endpoint()}/{self.repo}"


def upload(
    repo: str,
    files: Mapping[str, Path],
    message: str,
    private: bool = False,
    update: bool = False,
    replaces: Collection[str] = (),
) -> Uploaded:
    """Put files into a repository, all or none, and compare what the hub then has with what was sent.

    Args:
        repo: ``OWNER/NAME``; it is made unless it is there.
        files: By their names in the repository.
        message: Of the commit.
        private: Nobody but the owners may see it.
        update: The repository may hold files already; what it held stays in its history.
        replaces: Files of an earlier push, which go where ``files`` has none of that name.

    Raises:
        UploadError: The name is none, the network is off, the hub refuses or has something else afterwards, or the
            repository holds files and nobody said ``update``, or everybody sees it although it is to be private.
    """
    check_target(repo)
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(endpoint=endpoint())
    with _one_line(repo):
        there = _create(api, repo, private)
        held = {str(one["rfilename"]) for one in there.get("siblings") or ()} - {_OF_THE_HUB}
        if held and not update:
            raise UploadError(
                f"{endpoint()} has '{repo}' already, with {some(sorted(held))}; say that it is to be updated "
                "(--update; its history keeps what it holds), or choose another name"
            )
        if private and not there.get("private"):
            raise UploadError(f"'{repo}' is there already and everybody can see it; make it private on its page first")
        gone = sorted(held & set(replaces) - set(files))
        changes: list[Any] = [CommitOperationAdd(name, os.fspath(path)) for name, path in files.items()]
        changes += [CommitOperationDelete(name) for name in gone]
        parent = str(there.get("sha") or "") or None
        commit = api.create_commit(repo, changes, commit_message=message, parent_commit=parent).oid
    with _one_line(repo, f"the commit {commit} is there, but was not compared"):
        _compare(repo, commit, files)
    return Uploaded(repo, commit, bool(there.get("private")))


def check_target(repo: str, sends: bool = True) -> None:
    """Refuse what cannot be pushed to, before anything is done for it.

    Args:
        repo: ``OWNER/NAME``.
        sends: Something is to be sent, not just said.

    Raises:
        UploadError: The name is none, or the network is off.
    """
    try:
        Source(repo, "x")
    except WeightsError as error:
        raise UploadError(str(error)) from error
    if repo.count("/") != 1:
        raise UploadError(f"'{repo}' is no repository; expected OWNER/NAME, where OWNER is you or an organisation")
    if sends and (why := offline()):
        raise UploadError(f"'{repo}' cannot be pushed to: {why}; unset it")


def _create(api: Any, repo: str, private: bool) -> dict[str, Any]:
    """Make the repository unless it is there; returns what the hub says of it."""
    from huggingface_hub.utils import HfHubHTTPError

    try:
        api.create_repo(repo, **({"private": True} if private else {}))  # else as the owner's settings have it
    except HfHubHTTPError as error:
        if error.response is None or error.response.status_code != _EXISTS:
            raise
    return described(repo, "main")


def _compare(repo: str, commit: str, files: Mapping[str, Path]) -> None:
    """Refuse what the hub has of a commit if it is not what was sent.

    Raises:
        UploadError: It is something else.
    """
    there = {str(one["rfilename"]): one for one in described(repo, commit).get("siblings") or ()}
    for name, path in files.items():
        one = there.get(name, {})
        large = one.get("lfs") if isinstance(one.get("lfs"), dict) else {}
        found = str(large.get("sha256") or large.get("oid") or "") or str(one.get("blobId") or "")
        expected = file_hash(path) if large else _git_hash(path)
        if found != expected:
            raise UploadError(f"{repo} has {name} as {found or 'nothing'}, expected {expected}; push again (--update)")


def _git_hash(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@contextlib.contextmanager
def _one_line(repo: str, state: str = "nothing was committed") -> Iterator[None]:
    """Turn what the hub's client and its transports raise into one line that says what mends it.

    Args:
        repo: For messages.
        state: What has come of the push where something is raised.

    Raises:
        UploadError: Something was raised.
    """
    from huggingface_hub.utils import HfHubHTTPError

    try:
        yield
    except UploadError:
        raise
    except HfHubHTTPError as error:
        code = error.response.status_code if error.response is not None else 0
        raise UploadError(_refused(repo, code, str(error.server_message or error), state)) from error
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise UploadError(_refused(repo, error.code, str(error.reason), state)) from error
    except BREAKS as error:
        raise UploadError(_unreached(reason_of(error), state)) from error
    except Exception as error:  # httpx, requests, Xet and checks of the client's own have errors without a common base
        raise UploadError(_unreached(reason_of(error), state)) from error


def _refused(repo: str, code: int, said: str, state: str) -> str:
    """Return the line for a status that the hub gave."""
    owner, said = repo.partition("/")[0], " ".join(said.split())[:160]
    if code == 401:
        return (
            f"{endpoint()} does not know who you are (401); say it: `hf auth login` or HF_TOKEN, of a token that writes"
        )
    if code == 403:
        return f"your token may not write to '{repo}' (403: {said}); take one that may write for '{owner}'"
    if code == 404:
        return f"{endpoint()} has no '{repo}', or does not show it to you (404); check the name and your token"
    if code == _CHANGED:
        return f"'{repo}' was changed by somebody else meanwhile (412); look at it, and push again"
    if code == 429 or code >= 500:
        return f"{endpoint()} gave {code} for '{repo}'; {state}: push again later"
    return f"{endpoint()} refused '{repo}' ({code}: {said})"


def _unreached(reason: str, state: str) -> str:
    return f"the push to {endpoint()} broke off ({reason}); {state}: check the network, and push again"
