"""Where the weights of open_clip's tags are: files of the hub and URLs; open_clip itself fetches none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ovseg.checkpoint.hub import Source, fetch_first, local

_PICKLED, _SAFE = "open_clip_pytorch_model.bin", "open_clip_model.safetensors"


def fetch_tag(arch: str, tag: str, tag_config: Mapping[str, Any], consent: bool = False) -> Path:
    """Return the weights of a tag: a file on this disk, else fetched.

    Args:
        arch: Architecture, for messages.
        tag: Likewise.
        tag_config: What open_clip has about the tag.
        consent: The download was asked for in so many words.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched.
    """
    return fetch_first(tag_sources(tag_config), f"clip/{arch}/{tag}", consent)


def local_tag(tag_config: Mapping[str, Any]) -> Path | None:
    """Return the weights of a tag if they are on this disk, without any network."""
    return next((path for source in tag_sources(tag_config) if (path := local(source))), None)


def tag_sources(tag_config: Mapping[str, Any]) -> list[Source]:
    """Return where the weights of a tag may be, liked best first: safetensors on the hub, a pickle there, a URL.

    open_clip writes ``OWNER/NAME/FILE``, or ``OWNER/NAME/`` for the file that it calls so itself. The checksum stands
    in the URLs of OpenAI, and the beginning of it in those of open_clip's own releases.

    Args:
        tag_config: What open_clip has about the tag.
    """
    found = []
    if place := tag_config.get("hf_hub"):
        repo, _, file = str(place).rpartition("/")
        pickled = file or _PICKLED
        safe = _SAFE if pickled == _PICKLED else str(PurePosixPath(pickled).with_suffix(".safetensors"))
        names = [safe, pickled] if pickled.endswith((".bin", ".pth")) else [pickled]
        found += [Source(repo, name) for name in dict.fromkeys(names)]
    if url := str(tag_config.get("url") or ""):
        folder, name = url.rsplit("/", 2)[-2:]
        known = {"openaipublic": folder, "mlfoundations": PurePosixPath(name).stem.rpartition("-")[2]}
        sha256 = next((digits for owner, digits in known.items() if owner in url), "")
        found.append(Source(url=url, sha256=sha256))
    return found
