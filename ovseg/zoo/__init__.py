"""Models by name: cards of ready models, and every training-free method on every CLIP of open_clip.

A name is one of

- ``auto``: the best model for photographs that is installed, else one is fetched, else ``mini`` (`ovseg.zoo.auto`);
- ``fast``, ``best``, ``panoptic``: aliases with a meaning (`ovseg.zoo.aliases`);
- ``mini`` or ``san-vit-b-16``: a card (``ovseg models`` lists them), in the file of this name;
- ``sclip/ViT-B-16/openai``: a method, an architecture and a tag of open_clip or the path of a weights file;
- ``sclip/mini``: a method on the CLIP and with the size rule of a card;
- ``sclip/hf:OWNER/NAME``, ``sclip/hf-hub:OWNER/NAME``: a method on a CLIP of the hub; ``sclip/clip:A+B``: on several
  CLIPs (without a method, plain CLIP; all of them in `ovseg.zoo.clip_names`);
- ``hf:OWNER/NAME``: a model that somebody has trained with ovseg and shared (`ovseg.engine.sharing`), if that is what
  the repository holds; ``@REVISION`` behind it where not main is meant;
- a folder with ``open_clip_config.json``, or ``config.json`` of transformers (plain CLIP; put a method before it for
  more: ``sclip/path/to/folder``), or with a ``config.yaml`` of its own, such as that of a training, finished or not;
- a file of ``ovseg export``, ``model.onnx`` or ``model.pt2``: its network runs from there (`ovseg.meta_arch.exported`);
- a YAML config: a file, or a shipped one such as ``san/san_mini_scenes.yaml``; where its head is trained it says by
  ``MODEL.WEIGHTS`` with which weights.
"""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.checkpoint.run_files import LAST, MODEL
from ovseg.config import config_root
from ovseg.errors import ConfigError, WeightsError
from ovseg.zoo.aliases import AUTO
from ovseg.zoo.card import Card, list_models
from ovseg.zoo.exported import open_exported
from ovseg.zoo.knowledge import add_knowledge
from ovseg.zoo.names import resolve
from ovseg.zoo.released import find_released
from ovseg.zoo.spec import Spec

if TYPE_CHECKING:
    import torch
    from detectron2.config import CfgNode

    from ovseg.segmenter import Segmenter

__all__ = ["Card", "Spec", "build", "list_models", "load", "load_spec", "model_config", "require_weights", "resolve"]

_TOLD: set[str] = set()  # notes on models that were warned of


def load(
    model: str | Path = AUTO,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 1,
    overrides: dict[str, Any] | None = None,
    protocol: str = "",
    packed: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """Load a model; what every result of it says (`meta["notes"]`) is a warning, too, once a process.

    Args:
        model: A name; see the top of this module.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        dtype: ``auto``, ``fp32``, ``bf16`` or ``fp16``; what ``auto`` takes, `ovseg.segmenter.Segmenter` says.
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
    from ovseg.system.device import check_settings

    check_settings(device, dtype, batch_size)  # before a name may fetch something
    found = load_spec(resolve(model, protocol, overrides), device, dtype, batch_size, packed, compiled)
    for line in found.notes:
        if line not in _TOLD:
            _TOLD.add(line)
            warnings.warn(line, stacklevel=2)
    return found


def load_spec(
    spec: Spec,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    batch_size: int = 1,
    packed: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """Load what a name stands for, for who has resolved it already; the rest is as in `load`."""
    from ovseg.segmenter import Segmenter
    from ovseg.system.device import CPU, check_settings

    check_settings(device, dtype, batch_size)  # before the weights are read
    device = CPU.type if spec.exported is not None and device == "auto" else device  # where files run
    built, words = build(spec), spec.own_words
    asked = {"name": spec.asked, "why": spec.why} if spec.why else {}
    return Segmenter(built, spec.name, device, dtype, batch_size, words, packed, compiled, asked)


def build(spec: Spec, untrained: bool = False) -> Any:
    """Build a model on the CPU, with its weights; those of a released model are fetched unless the config names some.

    Args:
        spec: What to build.
        untrained: A head without weights is meant, for it is to be trained.

    Raises:
        UnknownNameError: The architecture, a method or a tag is unknown; near matches are named.
        WeightsError: The weights are missing, corrupt or do not fit.
        ConfigError: The config is not allowed.
        EnvironmentProblem: Detectron2 or another package is missing.
    """
    if spec.exported is not None:
        return open_exported(spec, lambda name: build(resolve(name)).clip)
    cfg, kind = spec.config, _kind(spec)
    if not untrained:
        require_weights(spec)
    elif not _released(spec):
        kind.check_training(cfg)
    if cfg.MODEL.WEIGHTS and not _is_trained(kind):
        raise ConfigError(
            f"MODEL.WEIGHTS is '{cfg.MODEL.WEIGHTS}', but {kind.__name__} has no trained part; leave it out"
        )
    if (card := _released(spec)) and not cfg.MODEL.WEIGHTS:
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.WEIGHTS = str(find_released(card))
    model = kind(cfg)
    if not untrained and (lacks := getattr(model, "untrained", "")):
        raise WeightsError(
            f"{lacks}, and its weights would be random; give weights that were trained with one as MODEL.WEIGHTS, or "
            f"switch it off: MODEL.{kind.__name__}.ADAPTER False"
        )
    if state := getattr(model, "training_state", ""):
        warnings.warn(f"'{cfg.MODEL.WEIGHTS}' is the checkpoint of a training at {state}", stacklevel=2)
    elif left := _is_behind(cfg.MODEL.WEIGHTS):
        warnings.warn(left, stacklevel=2)
    add_knowledge(model, spec)
    return model


def require_weights(spec: Spec) -> None:
    """Refuse a model whose head would have random weights; nothing is read for it.

    Raises:
        WeightsError: It would.
    """
    from ovseg.meta_arch.section import Sectioned

    kind = _kind(spec)
    if not _is_trained(kind) or spec.config.MODEL.WEIGHTS or _released(spec):
        return
    if issubclass(kind, Sectioned) and not kind.has_head(spec.config):
        return
    shipped, folder = [card for card in list_models() if config_root() / card.config == spec.path], spec.path.parent
    given = f"take the model '{shipped[0].name}'" if shipped else f"train it: ovseg train --config-file {spec.name}"
    if (folder / MODEL).is_file() or (folder / LAST).is_file():
        given = f"give the folder of its run, '{folder}'"
    raise WeightsError(
        f"'{spec.name}' has no trained weights: the head of its {kind.__name__} would be random; expected a file as "
        f"MODEL.WEIGHTS, or {given}"
    )


def _kind(spec: Spec) -> Any:
    from ovseg.meta_arch import ARCHITECTURES

    return ARCHITECTURES.all()[spec.config.MODEL.META_ARCHITECTURE]


def _released(spec: Spec) -> Card | None:
    """Return the card of a model whose weights its authors have released; None for all others."""
    return spec.card if spec.card is not None and spec.card.weights == "released" else None


def _is_trained(kind: Any) -> bool:
    return "weights" in inspect.signature(kind).parameters


def _is_behind(weights: str) -> str:
    """Say that the training in whose folder these weights lie has gone on since; empty if it has not."""
    from ovseg.checkpoint.run_state import peek
    from ovseg.checkpoint.trained import trained_step

    path = Path(weights)
    if path.suffix != ".safetensors" or not (path.parent / LAST).is_file() or (step := trained_step(path)) is None:
        return ""
    run = peek(path.parent / LAST)
    if run is None or run.step <= step:
        return ""
    return (
        f"'{weights}' is of step {step}, and its training is at {run} by now; `ovseg export-checkpoint "
        f"{path.parent}` brings it there"
    )


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
