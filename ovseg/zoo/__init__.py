"""Models by name: cards of ready models, and every training-free method on every CLIP of open_clip.

A name is one of

- ``mini`` or ``san-vit-b-16``: a card (``ovseg models`` lists them);
- ``sclip/ViT-B-16/openai``: a method, an architecture and a tag of open_clip or the path of a weights file;
- ``sclip/mini``: a method on the CLIP and with the size rule of a card;
- a folder with ``open_clip_config.json`` (plain CLIP; put a method before it for more: ``sclip/path/to/folder``), or
  with a ``config.yaml`` of its own;
- a YAML config such as ``configs/training_free/sclip.yaml``.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.config import load_config
from ovseg.errors import EnvironmentProblem
from ovseg.mappings import merge
from ovseg.zoo.card import Card, list_models
from ovseg.zoo.names import released_card, resolve
from ovseg.zoo.released import find_released

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from ovseg.segmenter import Segmenter

__all__ = ["Card", "list_models", "load", "model_config"]


def load(
    model: str | Path = "mini",
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 1,
    overrides: dict[str, Any] | None = None,
    protocol: str = "",
    packed: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """Load a model.

    Args:
        model: A name; see the top of this module.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        batch_size: Images per call of the model.
        overrides: Nested changes to the config, such as ``{"MODEL": {"PROTOCOL": {"SHORT_SIDE": 448}}}``.
        protocol: A benchmark for which the method has published settings (``voc21``), ``common``, or empty for the
            model's own.
        packed: Lay weights out for the CPU; see `ovseg.segmenter.Segmenter`.
        compiled: Compile the network; likewise.

    Raises:
        UnknownNameError: No such model, method, architecture or tag; near matches are named.
        WeightsError: The weights are missing, corrupt or do not fit.
        ConfigError: The config, device, dtype or batch size is not allowed.
        EnvironmentProblem: Detectron2 or another package is missing.
    """
    registry = _architectures()
    from ovseg.segmenter import Segmenter, check_settings

    check_settings(device, dtype, batch_size)  # before the weights are read
    cfg = model_config(model, overrides, protocol)
    if (card := released_card(str(model))) and not cfg.MODEL.WEIGHTS:
        cfg = model_config(model, merge(overrides or {}, {"MODEL": {"WEIGHTS": str(find_released(card))}}), protocol)
    architecture, words = registry.get(cfg.MODEL.META_ARCHITECTURE), cfg.MODEL.TEXT.VOCABULARY
    built = _build(architecture, cfg)
    return Segmenter(built, str(model), device, dtype, batch_size, words, packed, compiled)


def _build(architecture: Any, cfg: CfgNode) -> Any:
    """Build a model; of weights that were trained here, its frozen part comes from where the config says."""
    from ovseg.checkpoint.trained import is_trained_file, load_trained  # here, for cards need no PyTorch

    weights = cfg.MODEL.WEIGHTS
    if not is_trained_file(weights):
        return architecture(cfg)
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.WEIGHTS = ""
    model = architecture(plain)
    load_trained(model, weights)
    return model


def model_config(model: str | Path, overrides: dict[str, Any] | None = None, protocol: str = "") -> CfgNode:
    """Return the full config that `load` builds a model from; reads no weights.

    Arguments are those of `load`.

    Raises:
        UnknownNameError: No such model or method; near matches are named.
        WeightsError: The name is a path that leads nowhere.
        ConfigError: The config is not allowed.
        EnvironmentProblem: Detectron2 or another package is missing.
    """
    _architectures()
    from ovseg.meta_arch import complete

    path, changes = resolve(str(model), protocol)
    return complete(load_config(path, merge(changes, overrides or {})))


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
