"""Models by name: cards of ready models, and every training-free method on every CLIP of open_clip.

A name is one of

- ``mini``: a card (``ovseg models`` lists them);
- ``sclip/ViT-B-16/openai``: a method, an architecture and a tag of open_clip or the path of a weights file;
- ``sclip/mini``: a method on the CLIP and with the size rule of a card;
- a folder with ``open_clip_config.json`` (plain CLIP; put a method before it for more: ``sclip/path/to/folder``), or
  with a ``config.yaml`` of its own;
- a YAML config such as ``configs/training_free/sclip.yaml``.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ovseg.config import config_root, load_config
from ovseg.errors import EnvironmentProblem, UnknownNameError, WeightsError, unknown_name

if TYPE_CHECKING:
    from ovseg.segmenter import Segmenter

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Card:
    """What is known of a model before it is loaded.

    Attributes:
        name: Name for `load`.
        summary: One line.
        config: YAML file under ``configs/``.
        weights: ``embedded`` or ``open_clip`` (downloaded by open_clip at first use, or a local file).
        folder: Folder of embedded weights inside the package, else empty.
        source: Where the weights come from.
        code_licence, weights_licence: SPDX identifiers, or a sentence.
        paper: Of the method, where it is one.
    """

    name: str
    summary: str
    config: str
    weights: str
    source: str
    code_licence: str
    weights_licence: str
    folder: str = ""
    paper: str = ""

    @property
    def size_mb(self) -> float | None:
        """Size of embedded weights in MB (10**6 bytes); None where it depends on the CLIP that is chosen."""
        files = (PACKAGE / self.folder).glob("*.safetensors") if self.folder else []
        return round(sum(file.stat().st_size for file in files) / 1e6, 1) or None

    @property
    def installed(self) -> bool:
        """Whether the weights are on this machine."""
        return bool(self.size_mb)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**asdict(self), "size_mb": self.size_mb, "installed": self.installed}


def list_models() -> list[Card]:
    """Return the cards of all models, embedded ones first."""
    cards = [Card(**yaml.safe_load(path.read_text())) for path in sorted((PACKAGE / "zoo/cards").glob("*.yaml"))]
    return sorted(cards, key=lambda card: (card.weights != "embedded", card.name))


def load(
    model: str | Path = "mini",
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 1,
    overrides: dict[str, Any] | None = None,
) -> Segmenter:
    """Load a model.

    Args:
        model: A name; see the top of this module.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        batch_size: Images per call of the model.
        overrides: Nested changes to the config, such as ``{"MODEL": {"PROTOCOL": {"SHORT_SIDE": 448}}}``.

    Raises:
        UnknownNameError: No such model, method, architecture or tag; near matches are named.
        WeightsError: The weights are missing, corrupt or do not fit.
        ConfigError: The config, device or dtype is not allowed.
    """
    from ovseg.device import resolve_device
    from ovseg.segmenter import Segmenter

    resolve_device(device)
    registry = _architectures()
    path, changes = _resolve(str(model))
    cfg = load_config(path, _merge(changes, overrides or {}))
    if cfg.MODEL.META_ARCHITECTURE not in registry:
        raise unknown_name("meta architecture", cfg.MODEL.META_ARCHITECTURE, [name for name, _ in registry])
    return Segmenter(registry.get(cfg.MODEL.META_ARCHITECTURE)(cfg), str(model), device, dtype, batch_size)


def _architectures() -> Any:
    """Import Detectron2 and register our architectures with it."""
    try:
        with warnings.catch_warnings():  # Detectron2 scripts functions at import, which new PyTorch announces to drop
            warnings.simplefilter("ignore", FutureWarning)
            from detectron2.modeling import META_ARCH_REGISTRY

            import ovseg.meta_arch  # noqa: F401
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"{error}; run `python tools/install_detectron2.py`, then `ovseg doctor`") from error
    return META_ARCH_REGISTRY


def _resolve(model: str) -> tuple[Path, dict[str, Any]]:
    """Find the config file of a model name, and the changes to it that the name asks for."""
    from ovseg.recalibration import list_recalibrations, recalibration_class

    cards = {card.name: card for card in list_models()}
    if model in cards and cards[model].weights == "embedded":
        return config_root() / cards[model].config, _clip_of(cards[model])
    if model.endswith((".yaml", ".yml")):
        return Path(model), {}
    methods = {name.lower(): name for name in list_recalibrations()}
    method, _, rest = model.partition("/")
    if method.lower() in methods and not Path(model).exists():
        if not rest:
            raise UnknownNameError(
                f"'{model}' is a method without a CLIP; write for example '{model}/mini' or '{model}/ViT-B-16/openai'"
            )
        name = {"MODEL": {"RECALIBRATION": {"NAME": recalibration_class(method).__name__}}}
        if rest in cards:
            return config_root() / cards[rest].config, _merge(_clip_of(cards[rest]), name)
        own = config_root() / "training_free" / f"{method.lower()}.yaml"
        base = own if own.is_file() else config_root() / "training_free/base.yaml"
        return base, _merge(_clip_source(rest), name)
    if Path(model).is_dir():
        config = Path(model) / "config.yaml"
        return (config, {}) if config.is_file() else (config_root() / "training_free/clip.yaml", _clip_source(model))
    if Path(model).exists():
        raise WeightsError(
            f"'{model}' is a file; expected a folder, a .yaml, or 'METHOD/ARCHITECTURE/{model}' for a weights file"
        )
    raise unknown_name("model", model, [*cards, *(f"{name}/ViT-B-16/openai" for name in methods)])


def _clip_of(card: Card) -> dict[str, Any]:
    return {"MODEL": {"CLIP": {"FOLDER": str(PACKAGE / card.folder)}}}


def _clip_source(rest: str) -> dict[str, Any]:
    """Read ``ARCHITECTURE/TAG-or-file`` or a folder."""
    if Path(rest).is_dir():
        return {"MODEL": {"CLIP": {"FOLDER": rest}}}
    arch, slash, pretrained = rest.partition("/")
    if not slash:
        raise UnknownNameError(
            f"'{rest}' names no weights; expected ARCHITECTURE/TAG such as ViT-B-16/openai, a card, or a folder"
        )
    return {"MODEL": {"CLIP": {"ARCH": arch, "PRETRAINED": pretrained}}}


def _merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; the second wins."""
    merged = dict(first)
    for key, value in second.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


__all__ = ["Card", "list_models", "load"]
