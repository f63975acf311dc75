"""Cards: what is known of a model before it is loaded. They need neither PyTorch nor Detectron2."""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ovseg.checkpoint.hub import OPEN, Source, local
from ovseg.checkpoint.whole import is_whole
from ovseg.config import config_root, read_config, shipped_configs
from ovseg.errors import EnvironmentProblem
from ovseg.system.cache_dir import cache_path
from ovseg.system.files import file_hash

PACKAGE = Path(__file__).resolve().parents[1]
_OPEN_METHOD = "naclip"  # by which a CLIP that is open stands in for a model that is gated
_GENERIC = ("model", "pytorch_model")
CLIP_FILE = "open_clip_model.safetensors"

# SPDX identifiers. What is in neither list is not known to allow it, sentences are not.
COMMERCIAL = {
    *("Apache-2.0", "MIT", "MIT-0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Zlib", "Unlicense", "CC0-1.0"),
    *("CC-BY-4.0", "CC-BY-3.0", "CC-BY-SA-4.0", "MPL-2.0"),
}
NOT_COMMERCIAL = {"CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-3.0", "PolyForm-Noncommercial-1.0.0"}


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
        other_files: Names of further released files that its config loads, of the same settings.
        sha256: Its checksum, where that is known.
        parts: Names of released files that an option of a method takes; the first is its value in the config.
        reported: Numbers that the authors report, in words.
        task: ``semantic``: a label for every pixel; ``panoptic``: segments and instances of things, too.
        ade150: mIoU on ADE20K's 150 classes that the authors report, in percent: by it models for photographs are
            ranked; 0 where none is reported.
        ade_pq: PQ on ADE20K's 150 classes that the authors report, in percent; 0 where none is reported.
        trained_on: Data that the weights, or what is trained of them, have seen; empty where a CLIP is taken as it is.
        good_for: What to take it for, in a line; empty for a method among others.
        gated: Whether that repository is only for who has been let in.
        tensors_mb: Size of the tensors of a released file in MB (10**6 bytes); the file may hold more.
        clip_hash: Of the weights of an embedded CLIP: what runs on it, knows what it knows.
        knows: What these weights have seen, in words that continue "mini knows"; empty for those of photographs.
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
    other_files: tuple[str, ...] = ()
    sha256: str = ""
    parts: tuple[str, ...] = ()
    reported: str = ""
    task: str = "semantic"
    ade150: float = 0.0
    ade_pq: float = 0.0
    trained_on: str = ""
    good_for: str = ""
    gated: bool = False
    tensors_mb: float = 0.0
    clip_hash: str = ""
    knows: str = ""

    @property
    def unclear(self) -> tuple[str, ...]:
        """What of ``code`` and ``weights`` has a licence of which it is not known whether it allows commercial use."""
        both = {"code": self.code_licence, "weights": self.weights_licence}
        return tuple(of for of, licence in both.items() if licence not in COMMERCIAL and licence not in NOT_COMMERCIAL)

    @property
    def generic(self) -> bool:
        """Whether its file is called as those of many repositories are; by hand it is kept by the model's name."""
        return Path(self.file).stem in _GENERIC

    @property
    def commercial(self) -> bool:
        """Whether the licences of code and weights both allow commercial use; what is not known counts as no."""
        return self.code_licence in COMMERCIAL and self.weights_licence in COMMERCIAL

    @property
    def size_mb(self) -> float | None:
        """Size of the weights in MB (10**6 bytes); None where it depends on the CLIP that is chosen."""
        if not self.folder:
            return self.tensors_mb or None
        files = [PACKAGE / self.folder / name for name in (CLIP_FILE, self.file) if name]
        return round(sum(file.stat().st_size for file in files) / 1e6, 1)

    @property
    def installed(self) -> bool:
        """Whether the weights are on this machine, embedded, in our cache folder or in that of the hub's client."""
        return bool(self.folder) or on_disk(self) is not None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        own = ("size_mb", "installed", "commercial")
        return {**asdict(self), **{name: getattr(self, name) for name in own}}


def place(card: Card) -> Path:
    """Return where a released file that was fetched by hand is looked for.

    Raises:
        EnvironmentProblem: There is no place for a cache.
    """
    return cache_path() / "weights" / (card.name + Path(card.file).suffix if card.generic else card.file)


def on_disk(card: Card) -> Path | None:
    """Return the released file of a card if it lies here, whole and as expected; without any network.

    It is one that was put in its place by hand (a broken one is passed over, with a warning), else a fetched one.
    """
    if card.weights != "released":
        return None
    with contextlib.suppress(EnvironmentProblem):  # no home, no cache
        if (path := place(card)).is_file():
            if not (problem := _problem(path, card)):
                return path
            warnings.warn(f"'{path}' is not used: {problem}", stacklevel=2)
    source = source_of(card)
    return local(source) if source else None


def _problem(path: Path, card: Card) -> str:
    if not is_whole(path):
        return "it ends too early, as after a download that broke off; delete it, or fetch it anew"
    if card.sha256 and not (found := file_hash(path)).startswith(card.sha256):
        return f"its sha256 is {found}, expected {card.sha256}; it is damaged, fetch it anew"
    return ""


def source_of(card: Card) -> Source | None:
    """Return where a released file is fetched from; None where it can be had by hand only, or nothing is released."""
    if card.weights != "released" or not card.hub:
        return None
    other = f"{_OPEN_METHOD}/{OPEN}"
    return Source(
        card.hub,
        card.file,
        sha256=card.sha256,
        licence=card.weights_licence,
        gated_alternative=other,
        gated=card.gated,
    )


def list_models() -> list[Card]:
    """Return the cards of all models, embedded ones first."""
    return list(_cards())


@cache
def _cards() -> tuple[Card, ...]:
    cards = []
    for path in shipped_configs():
        if found := read_config(path).get("CARD"):
            name = f"{path.stem}/ARCHITECTURE/TAG" if found["weights"] == "open_clip" else path.stem
            own = {**found, **{key: tuple(found.get(key, ())) for key in ("parts", "other_files")}}
            cards.append(Card(name=name, config=path.relative_to(config_root()).as_posix(), **own))
    return tuple(sorted(cards, key=lambda card: (card.weights != "embedded", card.name)))
