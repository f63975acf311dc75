"""Fetching what a model needs of a repository: config, weights, tokenizer; and finding it on the disk again."""

from __future__ import annotations

import contextlib
import json
import re
import urllib.error
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovseg.checkpoint.hub import problems
from ovseg.checkpoint.hub.fetching import bring, kept_as, require_room
from ovseg.checkpoint.hub.manners import agree, megabytes, quietly, say
from ovseg.checkpoint.hub.network import offline
from ovseg.checkpoint.hub.problems import NotThere
from ovseg.checkpoint.hub.servers import BREAKS, Offer, described, licence_of
from ovseg.checkpoint.hub.source import HUB, OPEN, Source
from ovseg.checkpoint.hub.store import PART, hub_snapshot, kept, place_of
from ovseg.checkpoint.run_files import CLASSES, CONFIG, EARLIER, MODEL
from ovseg.errors import DownloadError, EnvironmentProblem, InputError, WeightsError, one_of
from ovseg.system.cache_dir import cache_advice
from ovseg.system.files import atomic_write
from ovseg.system.values import some

_NOTE = ".{}.files"  # by layout
_SMALL = 1_000_000  # bytes, below which a file has no lines of its own
TOKENIZER = re.compile(
    r"tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt"
    r"|(spiece|sentencepiece\.bpe|tokenizer)\.model|(pre)?processor_config\.json|scheduler_config\.json"
)


@dataclass(frozen=True)
class Layout:
    """Which files of a repository make a model.

    Attributes:
        config: Without which it is none.
        weights: Stems with endings, liked best first; each may be in one file, or in shards with an index beside them.
        prefix: What users write before the name of a repository to mean this layout.
        other: An open model of this kind, for who has no access to one that is gated; empty where there is none.
        beside: Files that go with it where they are there.
    """

    config: str
    weights: tuple[str, ...]
    prefix: str
    other: str = ""
    beside: tuple[str, ...] = ()


LAYOUTS = {
    "hf": Layout("config.json", ("model.safetensors", "pytorch_model.bin"), "hf:", OPEN),
    "open_clip": Layout(
        "open_clip_config.json", ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"), "hf-hub:", OPEN
    ),
    "tokenizer": Layout("", (), ""),
    "diffusers": Layout("model_index.json", (), "diffusion:"),
    "ovseg": Layout(CONFIG, (MODEL,), "hf:", beside=(CLASSES, EARLIER)),
}
"""``hf``: as transformers saves models. ``open_clip``: as open_clip does. ``tokenizer``: no weights at all.
``diffusers``: the parts of Stable Diffusion, each in a folder of its own. ``ovseg``: a model that was trained here, as
`ovseg.engine.sharing` shares it."""

_PARTS = {  # of Stable Diffusion, with their weights
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
    "tokenizer": (),
    "scheduler": (),
    "feature_extractor": (),
}


def fetch_repository(
    repo: str,
    layout: str = "hf",
    revision: str = "main",
    name: str = "",
    consent: bool = False,
    licence: str = "",
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

    Raises:
        DownloadRefused: Nobody agreed to a large download.
        DownloadError: It is not here and cannot be fetched, or the repository does not hold such a model.
    """
    one_of("layout", layout, tuple(LAYOUTS))
    whole = _whole(repo, layout, revision, licence)
    if folder := local_repository(repo, layout, revision):
        return folder
    place = place_of(whole).parent
    if why := offline():
        there = f"fetch the files of {HUB}/{repo}/tree/{revision} where there is a network"
        raise problems.off(repo, why, f"{there} and put them into '{place}'")
    said = _describe(whole)
    files = _files_of(said, whole, layout)
    missing = [one for one, file in files.items() if kept_as(*file) is None]
    size = _size(files[one][1] for one in missing)
    known = licence or licence_of(said)
    agree(name or repo, size, known, place, consent, f"ovseg download {name}" if name else "")
    _note(place, layout, list(files), repo, size or 0)
    stated = f", licence {known}" if known else ""
    say(f"fetching {len(missing)} files of {repo}: {megabytes(size)}{stated}; they are kept in '{place}'")
    for one in missing:
        own = files[one][1].size
        with quietly(own is not None and own < _SMALL):
            bring(*files[one], known)
    return place


def cost_of_repository(repo: str, layout: str = "hf", revision: str = "main") -> tuple[int | None, str]:
    """Return how many bytes `fetch_repository` would fetch, and the licence that the hub states; fetches nothing.

    The bytes are None where the hub does not say them.

    Raises:
        DownloadError: The hub does not answer, or the repository does not hold such a model.
    """
    one_of("layout", layout, tuple(LAYOUTS))
    whole = _whole(repo, layout, revision)
    said = _describe(whole)
    missing = [file for file in _files_of(said, whole, layout).values() if kept_as(*file) is None]
    return _size(offer for _, offer in missing), licence_of(said)


def layout_of(repo: str, revision: str = "main", among: Sequence[str] = ("hf", "ovseg")) -> str:
    """Return which of several layouts a repository has: by what is on this disk, else by what the hub says.

    Args:
        repo: ``OWNER/NAME``.
        revision: Branch, tag or commit.
        among: Keys of `LAYOUTS`. The first one counts where several fit, where none does, and where the hub does not
            tell: who fetches it then learns why.
    """
    if here := next((layout for layout in among if local_repository(repo, layout, revision)), ""):
        return here
    names: set[str] = set()
    if not offline():
        with contextlib.suppress(DownloadError):
            said = _describe(_whole(repo, among[0], revision))
            names = {str(one["rfilename"]) for one in said.get("siblings") or ()}
    return next((layout for layout in among if LAYOUTS[layout].config in names), among[0])


def _whole(repo: str, layout: str, revision: str, licence: str = "") -> Source:
    """Return what stands for a repository in messages: its config."""
    wanted = LAYOUTS[layout]
    config = wanted.config or "tokenizer.json"
    return Source(repo, config, revision, licence=licence, gated_alternative=wanted.other)


def _size(offers: Iterable[Offer]) -> int | None:
    """Return the bytes of several files; None where those of one are not known."""
    sizes = [offer.size for offer in offers]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _note(place: Path, layout: str, chosen: Sequence[str], repo: str, needed: int) -> None:
    """Write down which files belong to a model, before they are fetched: without one of them it is not whole.

    Args:
        place: Their folder; it is made, and its disk has to have room.
        layout: A key of `LAYOUTS`.
        chosen: The files.
        repo: Whose they are, for messages.
        needed: Bytes of what is not there, parts of broken downloads included.

    Raises:
        DownloadError: There is no room, or the folder cannot be written to.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        have = sum(part.stat().st_size for part in place.rglob(f".*{PART}"))
        require_room(repo, needed - have, place)
        with atomic_write(place / _NOTE.format(layout)) as temporary:
            temporary.write_text(json.dumps(chosen), encoding="utf-8")
    except OSError as error:
        raise DownloadError(
            f"'{place}' cannot be written to ({error.strerror or error}); choose another: {cache_advice()}"
        ) from error
    except InputError as error:
        raise DownloadError(str(error)) from error


def local_repository(repo: str, layout: str = "hf", revision: str = "main") -> Path | None:
    """Return a folder that is on this disk with what a model needs of a repository, without any network.

    It is ours, fetched or filled by hand, if all its files are what they were, else that of the cache of the hub's own
    client, if it is whole.

    Args:
        repo: ``OWNER/NAME``.
        layout: A key of `LAYOUTS`.
        revision: Branch, tag or commit.
    """
    one_of("layout", layout, tuple(LAYOUTS))
    with contextlib.suppress(EnvironmentProblem):  # no home, no cache
        place = place_of(Source(repo, "x", revision)).parent
        files = _files_in(place, layout, repo)
        if files and all(kept(Source(repo, one, revision)) for one in files):
            return place
    folder = hub_snapshot(repo, revision)
    return folder if folder is not None and _files_in(folder, layout, repo) else None


def _files_in(folder: Path, layout: str, repo: str) -> list[str]:
    """Return which files of a folder belong to a model; empty where they make none."""
    with contextlib.suppress(OSError, ValueError, TypeError, WeightsError):
        noted = json.loads((folder / _NOTE.format(layout)).read_text(encoding="utf-8"))
        return [Source(repo, str(one)).file for one in noted]
    with contextlib.suppress(OSError, NotThere):
        there = [one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()]
        return choose(there, layout, repo)
    return []


def choose(names: Sequence[str], layout: str, repo: str) -> list[str]:
    """Return which files of a repository make a model.

    Args:
        names: All files that it has, with their folders; other folders than those of the layout are passed over.
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
    if layout == "diffusers":
        return [wanted.config, *(one for part in _PARTS for one in _part(names, part, repo))]
    along = [name for name in wanted.beside if name in tops] if wanted.beside else tokenizer
    return [wanted.config, *along, *_best(tops, wanted.weights, repo)]


def _part(names: Sequence[str], part: str, repo: str) -> list[str]:
    """Return the files of a part of Stable Diffusion."""
    inside = sorted(name.removeprefix(f"{part}/") for name in names if name.startswith(f"{part}/"))
    small = [name for name in inside if TOKENIZER.fullmatch(name) or name == "config.json"]
    weights = _best(inside, _PARTS[part], f"{repo}/{part}") if _PARTS[part] else []
    return [f"{part}/{name}" for name in (*small, *weights)]


def _best(names: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """Return the files of the weights that are liked best among those that are there."""
    for weights in wanted:
        if found := _weights(names, weights):
            return found
    raise NotThere(
        f"{where} has no weights that can be read; expected {' or '.join(wanted)}, whole or in shards, it has "
        f"{some(names, 8) or 'no files'}"
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


def _describe(source: Source) -> dict[str, Any]:
    try:
        return described(source.repo, source.revision)
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise problems.refused(source, error, place_of(source)) from error
    except BREAKS as error:
        raise problems.unreached(source, error, place_of(source)) from error
    except ValueError as error:
        raise problems.no_hub(source, error) from error


def _files_of(said: dict[str, Any], whole: Source, layout: str) -> dict[str, tuple[Source, Offer]]:
    """Return each file that makes a model, in the order of `choose`, with what the hub says of it.

    Raises:
        NotThere: The repository holds no such model.
    """
    commit, entries = str(said.get("sha") or ""), {str(one["rfilename"]): one for one in said.get("siblings") or ()}
    found = {}
    for name in choose(list(entries), layout, whole.repo):
        source, one = replace(whole, file=name), entries[name]
        large = one["lfs"] if isinstance(one.get("lfs"), dict) else {}
        etag = str(large.get("sha256") or large.get("oid") or one.get("blobId") or "")
        size = large.get("size", one.get("size"))
        address = source.address_at(commit) if commit else source.address
        found[name] = (source, Offer(address, size if isinstance(size, int) else None, etag, commit))
    return found
