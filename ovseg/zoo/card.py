"""Cards: what is known of a model before it is loaded. They need neither PyTorch nor Detectron2."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ovseg.checkpoint.hub import Source, local
from ovseg.config import config_root, read_config, shipped_configs
from ovseg.errors import EnvironmentProblem
from ovseg.system.cache_dir import cache_path

PACKAGE = Path(__file__).resolve().parents[1]
CLIP_FILE = "open_clip_model.safetensors"


@dataclass(frozen=True)
class Card:
    """What is known of a model before it is loaded: the ``CARD`` of its YAML file, whose name is its own.

    Attributes:
        name: Name for `load`: that of the file; for a method with what is to be filled in, in capitals.
        summary: One line.
        config: The file, under ``configs/``.
        base: Its CLIP alone, for ``METHOD/NAME``; of one model for each embedded CLIP.
        weights: ``embedded``, ``open_clip`` (downloaded by open_clip at first use, or a local file) or ``released`` (a
            file of the authors; see `ovseg.zoo.released`).
        folder: Folder of embedded weights inside the package, else empty.
        source: Where the weights come from.
        code_licence, weights_licence: SPDX identifiers, or a sentence.
        paper: Of the method, where it is one.
        original_licence: Of the paper's own code, which ours does not contain.
        file: Name of a released file, or of the head of an embedded model in its folder.
        hub: Repository on the Hugging Face hub that holds it, else empty.
        link: Page where it can be had by hand.
        sha256: Its checksum, where that is known.
        reported: Numbers that the authors report, in words.
    """

    name: str
    summary: str
    config: str
    weights: str
    source: str
    code_licence: str
    weights_licence: str
    base: str = ""
    folder: str = ""
    paper: str = ""
    original_licence: str = ""
    file: str = ""
    hub: str = ""
    link: str = ""
    sha256: str = ""
    reported: str = ""

    @property
    def size_mb(self) -> float | None:
        """Size of embedded weights in MB (10**6 bytes); None where it depends on the CLIP that is chosen."""
        if not self.folder:
            return None
        files = [PACKAGE / self.folder / name for name in (CLIP_FILE, self.file) if name]
        return round(sum(file.stat().st_size for file in files) / 1e6, 1)

    @property
    def installed(self) -> bool:
        """Whether the weights are on this machine, embedded, in our cache folder or in that of the hub's client."""
        if self.weights != "released":
            return bool(self.size_mb)
        try:
            source = source_of(self)
            return place(self).is_file() or bool(source and local(source))
        except EnvironmentProblem:  # no home, no cache
            return False

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "size_mb": self.size_mb, "installed": self.installed}


def place(card: Card) -> Path:
    """Return where a released file that was fetched by hand is looked for.

    Raises:
        EnvironmentProblem: There is no place for a cache.
    """
    return cache_path() / "weights" / card.file


def source_of(card: Card) -> Source | None:
    """Return where a released file is fetched from; None where it can be had by hand only, or nothing is released."""
    if card.weights != "released" or not card.hub:
        return None
    return Source(card.hub, card.file, sha256=card.sha256, licence=card.weights_licence)


def list_models() -> list[Card]:
    """Return the cards of all models, embedded ones first."""
    return list(_cards())


@cache
def _cards() -> tuple[Card, ...]:
    cards = []
    for path in shipped_configs():
        if found := read_config(path).get("CARD"):
            name = f"{path.stem}/ARCHITECTURE/TAG" if found["weights"] == "open_clip" else path.stem
            cards.append(Card(name=name, config=path.relative_to(config_root()).as_posix(), **found))
    return tuple(sorted(cards, key=lambda card: (card.weights != "embedded", card.name)))
