"""Models by name: cards of ready models, and every training-free method on every CLIP of open_clip.

A name is one of

- ``mini`` or ``san-vit-b-16``: a card (``ovseg models`` lists them), in the file of this name;
- ``sclip/ViT-B-16/openai``: a method, an architecture and a tag of open_clip or the path of a weights file;
- ``sclip/mini``: a method on the CLIP and with the size rule of a card;
- a folder with ``open_clip_config.json`` (plain CLIP; put a method before it for more: ``sclip/path/to/folder``), or
  with a ``config.yaml`` of its own;
- a YAML config: a file, or a shipped one such as ``san/san_mini_scenes.yaml``.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.errors import ConfigError
from ovseg.zoo.card import Card, list_models
from ovseg.zoo.names import resolve
from ovseg.zoo.released import find_released
from ovseg.zoo.spec import Spec

if TYPE_CHECKING:
    from detectron2.config import CfgNode

    from ovseg.segmenter import Segmenter

__all__ = ["Card", "Spec", "build", "list_models", "load", "load_spec", "model_config", "resolve"]


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
        protocol: A benchmark for which there are published settings (``voc21``), ``common``, or empty for the
            model's own.
        packed: Lay weights out for the CPU; see `ovseg.segmenter.Segmenter`.
        compiled: Compile the network; likewise.

    Raises:
        UnknownNameError: No such model, method, architecture or tag; near matches are named.
        WeightsError: The weights are missing, corrupt or do not fit.
        ConfigError: The config, device, dtype or batch size is not allowed.
        EnvironmentProblem: Detectron2 or another package is missing.
    """
    return load_spec(resolve(model, protocol, overrides), device, dtype, batch_size, packed, compiled)


def load_spec(
    spec: Spec,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 1,
    packed: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """Load what a name stands for, for who has resolved it already; the rest is as in `load`."""
    from ovseg.segmenter import Segmenter
    from ovseg.system.device import check_settings

    check_settings(device, dtype, batch_size)  # before the weights are read
    built, words = build(spec), spec.config.MODEL.TEXT.VOCABULARY
    return Segmenter(built, spec.name, device, dtype, batch_size, words, packed, compiled)


def build(spec: Spec) -> Any:
    """Build a model on the CPU, with its weights; those of a released model are fetched unless the config names some.

    Raises:
        UnknownNameError: The architecture, a method or a tag is unknown; near matches are named.
        WeightsError: The weights are missing, corrupt or do not fit.
        ConfigError: The config is not allowed.
        EnvironmentProblem: Detectron2 or another package is missing.
    """
    cfg = spec.config
    from ovseg.meta_arch import ARCHITECTURES

    kind = ARCHITECTURES.all()[cfg.MODEL.META_ARCHITECTURE]
    if cfg.MODEL.WEIGHTS and "weights" not in inspect.signature(kind).parameters:
        raise ConfigError(
            f"MODEL.WEIGHTS is '{cfg.MODEL.WEIGHTS}', but {kind.__name__} has no trained part; leave it out"
        )
    if spec.card and spec.card.weights == "released" and not cfg.MODEL.WEIGHTS:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = str(find_released(spec.card))
    return kind(cfg)


def model_config(model: str | Path, overrides: dict[str, Any] | None = None, protocol: str = "") -> CfgNode:
    """Return the full config that `load` builds a model from; reads no weights.

    Arguments are those of `load`; `Spec.config` is the same for who goes on to build it.

    Raises:
        UnknownNameError: No such model or method; near matches are named.
        WeightsError: The name is a path that leads nowhere.
        ConfigError: The config is not allowed.
        EnvironmentProblem: Detectron2 or another package is missing.
    """
    return resolve(model, protocol, overrides).config
