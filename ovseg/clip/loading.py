"""Finds, reads and checks the weights of a CLIP, and builds it; loading is strict, every mistake is one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ovseg.checkpoint.files import read_state_dict, read_weights
from ovseg.checkpoint.strict import DERIVED, load_strict
from ovseg.clip import activation
from ovseg.clip.open_clip_internals import OPENAI_MEAN, OPENAI_STD, build_empty, build_model, import_open_clip
from ovseg.clip.tags import fetch_tag
from ovseg.errors import ConfigError, WeightsError, unknown_name
from ovseg.system.values import merge


class Loadable(Protocol):
    """A kind of CLIP, as far as loading knows it: which configs it can run, and how it is made of a built model.

    Attributes:
        notes: What results should say of how it was read.
    """

    notes: tuple[str, ...]

    def __init__(
        self,
        model: Any,
        model_cfg: Mapping[str, Any],
        name: str,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None: ...

    @staticmethod
    def check_config(model_cfg: dict[str, Any], name: str) -> None:
        """Refuse the configs that it cannot run."""


Clip = TypeVar("Clip", bound=Loadable)
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".npz")
_FOLDER_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def load(kind: type[Clip], arch: str, pretrained: str | Path, overrides: Mapping[str, Any] | None = None) -> Clip:
    """Load a CLIP by architecture and tag or file; see `BaseClip.load`."""
    model_cfg = architecture(arch)
    kind.check_config(model_cfg, arch)
    changes = dict(overrides or {})
    quick, note = bool(model_cfg.get("quick_gelu", False)), ""
    asked = changes.pop("quick_gelu", None)
    if _is_path(pretrained):
        path, preprocess = Path(pretrained), {}
        file = read_weights(path)
        state = file.tensors
        if asked is None:
            quick, note = activation.choose(path.name, arch, quick, activation.said_by(path, file))
    else:
        tag = str(pretrained)
        preprocess = _tag_config(arch, tag)
        if _tag_is_quick(arch, tag, preprocess) and not quick and asked is None:
            if tag.lower() != "openai":
                raise _quick_gelu_error(kind.__name__, f"the weights '{tag}'", arch, tag)
            quick = True
        path = fetch_tag(arch, tag, preprocess)
        state, _ = read_state_dict(path)
    model_cfg = activation.with_activation(merge(model_cfg, changes), quick if asked is None else bool(asked))
    return _noted(
        from_config(kind, model_cfg, state, f"{arch}/{_short(pretrained)}", preprocess, source=path.name), note
    )


def empty(kind: type[Clip], arch: str, quick: bool | None = None) -> Clip:
    """Build a CLIP without weights; see `BaseClip.empty`."""
    model_cfg, note = architecture(arch), ""
    if quick is None:
        own = bool(model_cfg.get("quick_gelu", False))
        quick, note = activation.choose("the CLIP of the checkpoint", arch, own, None)
    model_cfg = activation.with_activation(model_cfg, quick)
    return _noted(kind(build_empty(model_cfg, arch, kind.check_config), model_cfg, arch, OPENAI_MEAN, OPENAI_STD), note)


def _noted(clip: Clip, note: str) -> Clip:
    clip.notes = (note,) if note else ()
    return clip


def architecture(arch: str) -> dict[str, Any]:
    """Return open_clip's config of an architecture.

    Raises:
        UnknownNameError: open_clip has none of this name; near matches are named.
    """
    open_clip = import_open_clip()
    if arch not in open_clip.list_models():
        raise unknown_name("CLIP architecture", arch, open_clip.list_models())
    return dict(open_clip.get_model_config(arch))


def from_folder(kind: type[Clip], folder: str | Path) -> Clip:
    """Load a folder with a config and weights; see `BaseClip.from_folder`."""
    embedded = Path(__file__).resolve().parents[1] / "assets" / folder
    folder = embedded if (embedded / "open_clip_config.json").is_file() else Path(folder)
    config_path = folder / "open_clip_config.json"
    if not config_path.is_file():
        raise WeightsError(f"{config_path} does not exist; expected a folder with it and {_FOLDER_WEIGHTS[0]}")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        model_cfg, preprocess = dict(config["model_cfg"]), dict(config.get("preprocess_cfg", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{config_path} is not a config ({error}); expected JSON with model_cfg") from error
    for name in _FOLDER_WEIGHTS:
        if (folder / name).is_file():
            file, note = read_weights(folder / name), ""
            said = None if "quick_gelu" in model_cfg else activation.said_by(folder / name, file, configs=False)
            if said:
                quick, note = activation.choose(name, "the model of open_clip_config.json", False, said)
                model_cfg = activation.with_activation(model_cfg, quick)
            clip = from_config(kind, model_cfg, file.tensors, folder.resolve().name, preprocess, source=name)
            return _noted(clip, note)
    raise WeightsError(f"{folder} holds no weights; expected {' or '.join(_FOLDER_WEIGHTS)}")


def from_config(
    kind: type[Clip],
    model_cfg: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    name: str = "custom",
    preprocess_cfg: Mapping[str, Any] | None = None,
    source: str = "the state dict",
) -> Clip:
    """Build a CLIP from config and weights; see `BaseClip.from_config`. ``source`` names the weights in messages."""
    model_cfg = dict(model_cfg)
    model = build_model(model_cfg, name, kind.check_config)
    load_strict(model, _own_names(model.state_dict(), state_dict), source, name, DERIVED)
    preprocess = preprocess_cfg or {}
    mean = _three(preprocess.get("mean", OPENAI_MEAN), "mean")
    return kind(model, model_cfg, name, mean, _three(preprocess.get("std", OPENAI_STD), "std"))


def _own_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which a text tower has the name that it has here; CLIP's first layout gave it none."""
    if "positional_embedding" in own or "positional_embedding" not in state:
        return dict(state)
    roots = ("visual.", "logit_scale", "logit_bias", "text.")
    return {key if key.startswith(roots) else f"text.{key}": value for key, value in state.items()}


def _tag_config(arch: str, tag: str) -> dict[str, Any]:
    open_clip = import_open_clip()
    found = open_clip.get_pretrained_cfg(arch, tag)
    if not found:
        raise unknown_name(f"weights of {arch}", tag, open_clip.list_pretrained_tags_by_model(arch))
    return dict(found)


def _tag_is_quick(arch: str, tag: str, tag_config: Mapping[str, Any]) -> bool:
    """Tell whether weights were trained with QuickGELU; older versions of open_clip only say so by a second listing."""
    twin = import_open_clip().list_pretrained_tags_by_model(f"{arch}-quickgelu")
    clean = tag.lower().replace("-", "_")
    return bool(tag_config.get("quick_gelu", False)) or clean == "openai" or clean in twin


def _quick_gelu_error(kind: str, what: str, arch: str, pretrained: str) -> WeightsError:
    return WeightsError(
        f"{what} need QuickGELU but {arch} is built with exact GELU; "
        f"use {kind}.load('{arch}-quickgelu', '{pretrained}') or overrides={{'quick_gelu': True}}"
    )


def _is_path(pretrained: str | Path) -> bool:
    text = str(pretrained)
    return isinstance(pretrained, Path) or "/" in text or text.endswith(_FILE_SUFFIXES) or Path(text).is_file()


def _short(pretrained: str | Path) -> str:
    return Path(pretrained).stem if _is_path(pretrained) else str(pretrained)


def _three(values: Any, name: str) -> tuple[float, float, float]:
    try:
        first, second, third = (float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"preprocess_cfg has {name} {values!r}; expected three numbers") from error
    return first, second, third
