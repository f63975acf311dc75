"""Fetching what a model needs of a repository: config, weights, tokenizer; and finding it on the disk again."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ovseg.checkpoint.hub import problems
from ovseg.checkpoint.hub.fetching import bring
from ovseg.checkpoint.hub.manners import agree
from ovseg.checkpoint.hub.network import offline
from ovseg.checkpoint.hub.problems import NotThere
from ovseg.checkpoint.hub.servers import Offer, described, licence_of
from ovseg.checkpoint.hub.source import Source
from ovseg.checkpoint.hub.store import hub_snapshot, kept, place_of
from ovseg.errors import EnvironmentProblem, InputError, WeightsError, one_of
from ovseg.system.files import atomic_write
from ovseg.system.values import some

TOKENIZER = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|(spiece|sentencepiece\.bpe|tokenizer)\.model|(pre)?processor_config\.json"
)


@dataclass(frozen=True)
class Layout:
    """Which files of a repository make a model.

    Attributes:
        config: Without which it is none.
        weights: Stems with endings, liked best first; each may be in one file, or in shards with an index beside them.
        prefix: What users write before the name of a repository to mean this layout.
    """

    config: str
    weights: tuple[str, ...]
    prefix: str


LAYOUTS = {
    "hf": Layout("config.json", ("model.safetensors", "pytorch_model.bin"), "hf:"),
    "open_clip": Layout(
        "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), "hf-hub:"
    ),
    "tokenizer": Layout("", (), ""),
}
"""``hf``: as transformers saves models. ``open_clip``: as open_clip does. ``tokenizer``: no weights at all."""


def fetch_repository(
    repo: str,
    layout: str = "hf",
    revision: str = "main",
    name: str = "",
    consent: bool = False,
    licence: str = "",
    gated_alternative: str = "",
) -> Path:
    """Return a folder with what a model needs of a repository: the one on this disk, else fetched.

    Config, tokenizer, and weights: safetensors before pickles, one file before shards (with their index). Everything
    that `fetch` says of a file holds for each; somebody agrees to the size of all that is missing at once.

    Args:
        repo: ``OWNER/NAME``.
        layout: A key of `LAYOUTS`.
        revision: Branch, tag or commit.
        name: By which the user calls it.
        consent: The download was asked for in so many words.
        licence: Of the weights, in words; empty: as the hub says.
        gated_alternative: Name of an open model, for who has no access to this one.

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched, or the repository does not hold such a model.
    """
    one_of("layout", layout, tuple(LAYOUTS))
    whole = Source(repo, LAYOUTS[layout].config or "tokenizer.json", revision, "", None, "", licence, gated_alternative)
    if folder := local_repository(repo, layout, revision):
        return folder
    place = place_of(replace(whole, file="x")).parent
    if why := offline():
        raise problems.off(whole, why, place)
    said = _describe(whole, place)
    files = _files_of(said, whole)
    chosen = choose(list(files), layout, repo)
    missing = [one for one in chosen if kept(files[one][0]) is None]
    size = sum(files[one][1].size or 0 for one in missing)
    known = licence or licence_of(said)
    agree(name or repo, size, known, place, consent, f"ovseg download {name}" if name else "")
    for one in missing:
        bring(*files[one], known)
    with contextlib.suppress(InputError):  # a cache that can only be read now
        with atomic_write(place / f".{layout}.snapshot") as temporary:
            temporary.write_text(json.dumps({"commit": said.get("sha", ""), "files": chosen}), encoding="utf-8")
    return place


def local_repository(repo: str, layout: str = "hf", revision: str = "main") -> Path | None:
    """Return a folder that is on this disk with what a model needs of a repository, without any network.

    It is ours, if all its files are what was fetched, else that of the cache of the hub's own client, if it is whole.

    Args:
        repo: ``OWNER/NAME``.
        layout: A key of `LAYOUTS`.
        revision: Branch, tag or commit.
    """
    one_of("layout", layout, tuple(LAYOUTS))
    with contextlib.suppress(EnvironmentProblem, OSError, ValueError, KeyError, TypeError):
        place = place_of(Source(repo, "x", revision)).parent
        files = json.loads((place / f".{layout}.snapshot").read_text(encoding="utf-8"))["files"]
        if all(kept(Source(repo, one, revision)) for one in files):
            return place
    folder = hub_snapshot(repo, revision)
    with contextlib.suppress(WeightsError):
        if folder is not None and choose([one.name for one in folder.iterdir() if one.exists()], layout, repo):
            return folder
    return None


def choose(names: Sequence[str], layout: str, repo: str) -> list[str]:
    """Return which files of a repository make a model.

    Args:
        names: All files that it has; those in folders are passed over.
        layout: A key of `LAYOUTS`.
        repo: Its name, for messages.

    Raises:
        NotThere: It holds no such model; the message says what it holds.
    """
    wanted, tops = LAYOUTS[layout], sorted(name for name in names if "/" not in name)
    tokenizer = [name for name in tops if TOKENIZER.fullmatch(name)]
    if layout == "tokenizer":
        if not tokenizer:
            raise NotThere(f"{repo} holds no tokenizer; expected tokenizer.json or the like, it has {some(tops, 8)}")
        return [*tokenizer, *(["config.json"] if "config.json" in tops else [])]
    if wanted.config not in tops:
        others = [one for one in LAYOUTS.values() if one.config in tops]
        mend = f"write '{others[0].prefix}{repo}'" if others else f"it has {some(tops, 8) or 'no files'}"
        raise NotThere(f"{repo} has no {wanted.config}, which '{wanted.prefix}{repo}' means; {mend}")
    for weights in wanted.weights:
        if found := _weights(tops, weights):
            return [wanted.config, *tokenizer, *found]
    raise NotThere(
        f"{repo} has no weights that can be read; expected {' or '.join(wanted.weights)}, whole or in shards, "
        f"it has {some(tops, 8)}"
    )


def _weights(names: Sequence[str], file: str) -> list[str]:
    """Return the file, or its index and all shards; empty where there is neither."""
    if file in names:
        return [file]
    stem, _, ending = file.rpartition(".")
    shard = re.compile(rf"{re.escape(stem)}-(\d+)-of-(\d+)\.{re.escape(ending)}")
    shards = [match for match in map(shard.fullmatch, names) if match]
    index = f"{file}.index.json"
    numbers = {int(match[1]) for match in shards}
    whole = bool(shards) and numbers == set(range(1, int(shards[0][2]) + 1))
    return [index, *(match[0] for match in shards)] if whole and index in names else []


def _describe(source: Source, place: Path) -> dict[str, Any]:
    try:
        return described(source.repo, source.revision)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise problems.refused(source, error, place) from error
    except (OSError, HTTPException, ValueError) as error:
        raise problems.unreached(source, error, place) from error


def _files_of(said: dict[str, Any], whole: Source) -> dict[str, tuple[Source, Offer]]:
    """Return each file with what the hub says of it; names that lead out of the folder are refused."""
    commit, found = str(said.get("sha") or ""), {}
    for one in said.get("siblings") or ():
        source = replace(whole, file=str(one["rfilename"]))
        large = one.get("lfs") or {}
        etag = str(large.get("sha256") or large.get("oid") or one.get("blobId") or "")
        size = large.get("size", one.get("size"))
        address = source.address_at(commit) if commit else source.address
        found[source.file] = (source, Offer(address, size, etag, commit))
    return found
