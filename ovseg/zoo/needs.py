"""Which files of weights the name of a model needs, and what of them is on this disk."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.checkpoint.hub import Source, fetch_first, fetch_repository, local, local_repository
from ovseg.checkpoint.hub.fetching import ask
from ovseg.checkpoint.hub.problems import NotThere
from ovseg.checkpoint.hub.repository import cost_of_repository
from ovseg.checkpoint.hub.store import place_of
from ovseg.clip.activation import of_tag
from ovseg.clip.architectures import architecture
from ovseg.clip.folders import Repository, folder_config, locate, repository, tokenizer_files
from ovseg.clip.sources import ClipSource
from ovseg.clip.tags import tag_config, tag_sources
from ovseg.errors import ConfigError
from ovseg.zoo.aliases import AUTO, recommended
from ovseg.zoo.card import Card, on_disk, place, source_of
from ovseg.zoo.names import resolve
from ovseg.zoo.shared import shared_repository
from ovseg.zoo.spec import Spec

_GUIDES = ("timm:", "diffusion:")
_SAM = "github.com/facebookresearch/segment-anything"


@dataclass(frozen=True)
class Need:
    """One thing that a model needs.

    Attributes:
        what: In words.
        asked: The name whose need it is.
        sources: Files that mean the same weights, liked best first; none where it is a repository or by hand.
        repo: A repository of the hub; None where it is none.
        by_hand: How to get what cannot be fetched; else empty.
        found: Where it is on this disk; None where it is not.
    """

    what: str
    asked: str
    sources: tuple[Source, ...] = ()
    repo: Repository | None = None
    by_hand: str = ""
    found: Path | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """What tells needs apart: what is fetched, not how it is called."""
        return self.sources, self.repo, self.by_hand

    @property
    def places(self) -> set[Path]:
        """Where it is kept on this disk, or would be: files, or the folder of a repository.

        Raises:
            EnvironmentProblem: There is no place for a cache.
        """
        there = {self.found} if self.found else set()
        if self.repo:
            return there | {place_of(Source(self.repo.name, "x", self.repo.revision)).parent}
        return there | {place_of(source) for source in self.sources}

    def offer(self) -> tuple[int | None, str]:
        """Ask for the bytes to come (None where a server does not say) and the licence in words.

        Raises:
            DownloadError: Nobody answers, or there is no such thing.
        """
        if self.repo:
            return cost_of_repository(self.repo.name, self.repo.layout, self.repo.revision)
        missing: NotThere | None = None
        for source in self.sources:
            try:
                return ask(source).size, source.licence
            except NotThere as error:
                missing = error
        raise missing or NotThere(f"{self.what} has no source")

    def fetch(self) -> Path:
        """Fetch it; that it was asked for by name is consent.

        Raises:
            DownloadError: It cannot be fetched.
        """
        if self.repo:
            repo, layout, revision = self.repo.name, self.repo.layout, self.repo.revision
            return fetch_repository(repo, layout, revision, name=self.asked, consent=True)
        return fetch_first(self.sources, self.asked, consent=True)


def needs_of(name: str) -> list[Need]:
    """Return what a name needs beyond what is in the package and in files that it names itself.

    What the config of a repository names (the tokenizer of its texts) is known when the repository is on this disk.

    Args:
        name: As for `ovseg.load`; ``auto`` is the recommended model. Or a guide, ``timm:TAG`` or ``diffusion:MODEL``.

    Raises:
        OvsegError: As `ovseg.zoo.resolve`.
    """
    if name.startswith(_GUIDES):
        return _guide(name, name)
    shared = _shared(name)
    if shared and not shared[0].found:
        return shared  # its config says what else it needs
    spec = resolve(recommended() if name == AUTO else name)
    from ovseg.meta_arch import ARCHITECTURES  # with Detectron2's models it takes a second
    from ovseg.meta_arch.section import Sectioned

    kind = ARCHITECTURES.all()[spec.config.MODEL.META_ARCHITECTURE]
    named = kind.beside(spec.config) if issubclass(kind, Sectioned) else ()
    own_clip = bool(named) or (issubclass(kind, Sectioned) and kind.needs_clip)
    beside = [need for one in named for need in _guide(one, name)]
    source = ClipSource.of(spec.config.MODEL.CLIP)
    if spec.card and spec.card.weights == "released" and not spec.config.MODEL.WEIGHTS:
        return [_released(spec.card, name), *(_clip(source, name) if own_clip else ()), *beside]
    clips = [need for one in source.members or (source,) for need in _clip(one, name)]
    guide = str(spec.config.MODEL.RECALIBRATION.OPTIONS.get("GUIDE", ""))
    return [*shared, *clips, *_guide(guide, name), *beside, *_files(spec, name)]


def _shared(name: str) -> list[Need]:
    """Return the repository of a model that somebody has trained and shared; none for other names."""
    repo = shared_repository(name)
    if repo is None:
        return []
    return [Need(f"model {name}", name, repo=repo, found=local_repository(repo.name, repo.layout, repo.revision))]


def _released(card: Card, name: str) -> Need:
    source = source_of(card)
    by_hand = "" if source else f"fetch {card.link} and put it at '{place(card)}'"
    return Need(f"model {card.name}", name, (source,) if source else (), by_hand=by_hand, found=on_disk(card))


def _clip(source: ClipSource, name: str) -> list[Need]:
    """Return a CLIP of the hub or of a tag of open_clip, and what its texts need; other files are the user's own."""
    if repo := repository(source.folder):
        here = local_repository(repo.name, repo.layout, repo.revision)
        own = Need(f"model {source.folder}", name, repo=repo, found=here)
        return [own, *(_texts(folder_config(source.folder).model_cfg, here, name) if here else ())]
    if source.folder:
        return _texts(folder_config(source.folder).model_cfg, locate(source.folder), name)
    config = architecture(source.arch)  # says what is unknown: this, or the tag
    texts = _texts(config, None, name)
    if "/" in source.pretrained or Path(source.pretrained).is_file():
        return texts
    tag = tag_config(source.arch, source.pretrained)
    if source.quick_gelu is None:
        of_tag(source.arch, source.pretrained, tag)  # refuses what could not be loaded by this name
    return [_first(f"CLIP {source.name}", name, tag_sources(tag)), *texts]


def _texts(model_cfg: Mapping[str, Any], folder: Path | None, name: str) -> list[Need]:
    """Return the config and the tokenizer of texts that a CLIP takes from another repository."""
    text = model_cfg.get("text_cfg") or {}
    keys = ("hf_model_name",) if folder and tokenizer_files(folder) else ("hf_model_name", "hf_tokenizer_name")
    named = dict.fromkeys(str(text[key]) for key in keys if text.get(key))
    return [
        Need(
            f"tokenizer {one}",
            name,
            repo=Repository(one, "main", "tokenizer", ""),
            found=local_repository(one, "tokenizer"),
        )
        for one in named
        if not Path(one).is_dir()
    ]


def _guide(guide: str, name: str) -> list[Need]:
    """Return the backbone of a guide, where it is one of timm without a file, or of the hub."""
    kind, _, argument = guide.partition(":")
    tag = argument.partition("#")[0]
    if kind == "timm" and "@" not in tag:
        from ovseg.guides.timm import sources_of

        return [_first(f"guide timm:{tag}", name, sources_of(tag))]
    if kind == "diffusion" and not (argument and Path(argument).is_dir()):
        from ovseg.guides.diffusion import DEFAULT

        repo = Repository(argument or DEFAULT, "main", "diffusers", "")
        here = local_repository(repo.name, repo.layout)
        return [Need(f"guide diffusion:{repo.name}", name, repo=repo, found=here)]
    return []


def _files(spec: Spec, name: str) -> list[Need]:
    """Return files that a config names and that are not there."""
    model = spec.config.MODEL
    named = (
        ("heads", model.RECALIBRATION.OPTIONS.get("WEIGHTS", ""), spec.card.source if spec.card else ""),
        ("upsampler", model.RECALIBRATION.OPTIONS.get("UPSAMPLER", ""), spec.card.source if spec.card else ""),
        ("SAM", model.RECALIBRATION.OPTIONS.get("SAM", "").partition("@")[2], _SAM),
        ("SAM", model.REGIONS.OPTIONS.get("CHECKPOINT", ""), _SAM),
    )
    missing = [(what, file, link) for what, file, link in named if file and not _exists(file)]
    return [
        Need(f"{what} {file}", name, by_hand=f"fetch it ({link}) and name its place") for what, file, link in missing
    ]


def _exists(file: str) -> bool:
    assets = Path(__file__).resolve().parents[1] / "assets"
    return Path(os.path.expanduser(file)).is_file() or (assets / file).is_file()


def _first(what: str, name: str, sources: Sequence[Source]) -> Need:
    found = next((path for source in sources if (path := local(source))), None)
    if not sources:
        raise ConfigError(f"{what} of '{name}' cannot be fetched: no place of it is known; give a file")
    return Need(what, name, tuple(sources), found=found)
