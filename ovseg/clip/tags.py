"""Where the weights of open_clip's tags are: files of the hub and URLs; open_clip itself fetches none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ovseg.checkpoint.hub import OPEN, Source, fetch_first, local
from ovseg.clip.open_clip_internals import import_open_clip
from ovseg.errors import unknown_name

_PICKLED, _SAFE = "open_clip_pytorch_model.bin", "open_clip_model.safetensors"


def tag_config(arch: str, tag: str) -> dict[str, Any]:
    """Return what open_clip has about a tag.

    Raises:
        UnknownNameError: It has no such weights of the architecture; near matches are named.
    """
    open_clip = import_open_clip()
    found = open_clip.get_pretrained_cfg(arch, tag)
    if not found:
        raise unknown_name(f"weights of {arch}", tag, open_clip.list_pretrained_tags_by_model(arch))
    return dict(found)


def fetch_tag(arch: str, tag: str, config: Mapping[str, Any], consent: bool = False) -> Path:
    """Return the weights of a tag: a file on this disk, else fetched.

    Args:
        arch: Architecture, for messages.
        tag: Likewise.
        config: What open_clip has about the tag.
        consent: The download was asked for in so many words.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched.
    """
    return fetch_first(tag_sources(config), f"clip/{arch}/{tag}", consent)


def local_tag(config: Mapping[str, Any]) -> Path | None:
    """Return the weights of a tag if they are on this disk, without any network."""
    return next((path for source in tag_sources(config) if (path := local(source))), None)


def tag_sources(config: Mapping[str, Any]) -> list[Source]:
    """Return where the weights of a tag may be, liked best first: safetensors on the hub, a pickle there, a URL.

    open_clip writes ``OWNER/NAME/FILE``, or ``OWNER/NAME/`` for the file that it calls so itself. The checksum stands
    in the URLs of OpenAI, and the beginning of it in those of open_clip's own releases.

    Args:
        config: What open_clip has about the tag.
    """
    found = []
    if place := config.get("hf_hub"):
        repo, _, file = str(place).rpartition("/")
        pickled = file or _PICKLED
        safe = _SAFE if pickled == _PICKLED else str(PurePosixPath(pickled).with_suffix(".safetensors"))
        names = [safe, pickled] if pickled.endswith((".bin", ".pth")) else [pickled]
        found += [Source(repo, name, gated_alternative=OPEN) for name in dict.fromkeys(names)]
    if url := str(config.get("url") or ""):
        folder, name = url.rsplit("/", 2)[-2:]
        known = {"openaipublic": folder, "mlfoundations": PurePosixPath(name).stem.rpartition("-")[2]}
        sha256 = next((digits for owner, digits in known.items() if owner in url), "")
        found.append(Source(url=url, sha256=sha256))
    return found
