"""Where a file of weights comes from: a repository of the hub, or a plain URL."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote, urlsplit

from ovseg.errors import DownloadError, WeightsError

HUB = "https://huggingface.co"
OPEN = "ViT-B-16/openai"
"""Weights of a CLIP that are there for everybody, for who has no access to those of another one."""
_ODD = re.compile(r"[^!-~]")  # a blank, a control character, a letter that no address has
_IN_NAMES = re.compile(r"[A-Za-z0-9._-]+")  # all that the hub allows


@dataclass(frozen=True)
class Source:
    """One file, and what is known of it before it is fetched.

    Attributes:
        repo: ``OWNER/NAME`` on the hub; empty for a plain URL.
        file: Path inside the repository; of a URL the name to keep it under, empty for the URL's own.
        revision: Branch, tag or commit of the repository.
        sha256: Hex digits of its checksum, all of them or at least the first eight; empty where it is not known.
        size: In bytes; None where it is not known.
        url: Of a file outside of the hub.
        licence: Of the weights, in words, to be said before the download; empty: the hub is asked.
        gated_alternative: Name of an open model, for who has no access to this one.
        gated: Whether it is known to be there only for who has been let in.
    """

    repo: str = ""
    file: str = ""
    revision: str = "main"
    sha256: str = ""
    size: int | None = None
    url: str = ""
    licence: str = ""
    gated_alternative: str = ""
    gated: bool = False

    def __post_init__(self) -> None:
        """Refuse what leads nowhere, or out of the folder in which files are kept.

        Raises:
            WeightsError: It names neither a file of a repository nor a URL, or its path has a part such as ``..``.
        """
        if bool(self.repo) == bool(self.url) or not (self.file or self.url):
            raise WeightsError(f"weights come from a repository and a file of it, or from a URL; got {self}")
        owner_and_name = self.repo.split("/") if self.repo else []
        if len(owner_and_name) > 2 or not all(_is_plain(part) and _IN_NAMES.fullmatch(part) for part in owner_and_name):
            raise WeightsError(
                f"'{self.repo}' is no repository; expected OWNER/NAME, of letters from A to Z, digits, and -_."
            )
        if not self.revision:
            raise WeightsError(f"the revision of '{self.repo}' is empty; expected a branch, tag or commit: main?")
        if self.url and urlsplit(self.url).scheme not in ("http", "https"):
            raise WeightsError(f"'{self.url}' is no URL that is fetched; expected http:// or https://")
        if not all(map(_is_plain, [*self.path.parts, *self.file.split("/")] if self.file else self.path.parts)):
            raise WeightsError(f"'{self.path}' is no path inside a repository; expected for example model.safetensors")
        if self.sha256 and len(self.sha256) < 8:
            raise WeightsError(f"sha256 '{self.sha256}' is too short to tell files apart; expected at least 8 digits")

    @property
    def path(self) -> PurePosixPath:
        """Where it lies below the folder of all weights."""
        if self.repo:
            return PurePosixPath("hub", *self.repo.split("/"), quote(self.revision, safe=""), *self.file.split("/"))
        parts = urlsplit(self.url)
        folder = PurePosixPath(
            "url", parts.netloc.replace(":", "_"), *[one for one in parts.path.split("/")[:-1] if one]
        )
        return folder / (self.file or parts.path.rsplit("/", 1)[-1] or "file")

    @property
    def address(self) -> str:
        """Its URL; that of a repository's file is below `endpoint`."""
        return self.url or self.address_at(self.revision)

    def address_at(self, revision: str) -> str:
        """Return the URL of a repository's file at another revision, such as the commit that a branch stood for."""
        return f"{endpoint()}/{self.repo}/resolve/{quote(revision, safe='')}/{quote(self.file)}"

    def __str__(self) -> str:
        """Say it as messages do: ``OWNER/NAME/FILE``, with ``@REVISION`` unless that is main; or the URL."""
        at = "" if self.revision == "main" else f"@{self.revision}"
        return self.url or f"{self.repo}{at}/{self.file}"


def endpoint() -> str:
    """Return the address of the hub: ``HF_ENDPOINT`` (a mirror) or the public one.

    Raises:
        DownloadError: What is named is no address.
    """
    said = os.environ.get("HF_ENDPOINT") or HUB
    address = said.strip().rstrip("/")
    try:
        parts = urlsplit(address)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not _ODD.search(address)
    except ValueError:  # of brackets or of a port
        sound = False
    if not sound:
        raise DownloadError(f"HF_ENDPOINT is '{said}', which is no address; expected one such as {HUB}, or unset it")
    return address


def _is_plain(part: str) -> bool:
    """Tell whether a part of a path stays where it is put, on every system."""
    return part not in ("", ".", "..") and not any(sign in part for sign in "/\\\0:")
