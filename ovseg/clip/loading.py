"""Finds, reads and checks the weights of a CLIP, and builds it; loading is strict, every mistake is one line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor

from ovseg.checkpoint.clip_files import read_clip
from ovseg.checkpoint.shards import weights_of
from ovseg.checkpoint.strict import DERIVED, load_strict
from ovseg.clip import activation
from ovseg.clip.architectures import architecture, preprocess_of
from ovseg.clip.folders import (
    TRANSFORMERS,
    folder_config,
    hashes_of,
    locate,
    name_of,
    said_beside,
    tokenizer_files,
)
from ovseg.clip.open_clip_internals import OPENAI_MEAN, OPENAI_STD, build_empty, build_model
from ovseg.clip.position_tables import fit_tables
from ovseg.clip.preprocessing import three
from ovseg.clip.sources import ClipSource
from ovseg.clip.tags import fetch_tag, tag_config
from ovseg.system.values import merge


class Loadable(Protocol):
    """A kind of CLIP, as far as loading knows it: which configs it can run, and how it is made of a built model.

    Attributes:
        notes: What results should say of how it was read.
        text_cfg: Of its text tower, for the tokenizer.
    """

    notes: tuple[str, ...]
    text_cfg: dict[str, Any]

    def __init__(
        self,
        model: Any,
        model_cfg: Mapping[str, Any],
        name: str,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        tokenizer: Mapping[str, str] | None = None,
    ) -> None: ...

    @staticmethod
    def check_config(model_cfg: dict[str, Any], name: str) -> None:
        """Refuse the configs that it cannot run."""


Clip = TypeVar("Clip", bound=Loadable)
_FILE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".tar", ".safetensors", ".npz", ".json")
CLIP_TOKENS = 49408
"""So many tokens has CLIP's own tokenizer, which is here without any file."""


def load(
    kind: type[Clip],
    arch: str,
    pretrained: str | Path,
    overrides: Mapping[str, Any] | None = None,
    resize_position: bool = False,
) -> Clip:
    """Load a CLIP by architecture and tag or file; see `BaseClip.load`."""
    model_cfg = architecture(arch)
    kind.check_config(model_cfg, arch)
    changes = dict(overrides or {})
    quick, note, images = bool(model_cfg.get("quick_gelu", False)), "", ""
    asked = changes.pop("quick_gelu", None)
    if _is_path(pretrained):
        path = weights_of(Path(pretrained)) if os.path.isdir(pretrained) else Path(pretrained)
        preprocess, images = _normalised(path, arch)
        weights = read_clip(path)
        if asked is None:
            quick, note = activation.choose(path.name, arch, quick, activation.said_by(path, weights))
    else:
        tag = str(pretrained)
        preprocess = tag_config(arch, tag)
        if asked is None:
            quick = activation.of_tag(arch, tag, preprocess)
        path = fetch_tag(arch, tag, preprocess)
        weights = read_clip(path)
    model_cfg = activation.with_activation(merge(model_cfg, changes), quick if asked is None else bool(asked))
    name = f"{arch}/{_short(pretrained)}"
    clip = from_config(kind, model_cfg, weights.tensors, name, preprocess, path.name, resize_position)
    return _noted(clip, note, images, *weights.notes)


def empty(kind: type[Clip], arch: str, quick: bool | None = None) -> Clip:
    """Build a CLIP without weights; see `BaseClip.empty`."""
    model_cfg, note = architecture(arch), ""
    if quick is None:
        own = bool(model_cfg.get("quick_gelu", False))
        quick, note = activation.choose("the CLIP of the checkpoint", arch, own, None)
    model_cfg = activation.with_activation(model_cfg, quick)
    preprocess, images = preprocess_of(arch)
    model = build_empty(model_cfg, arch, kind.check_config)
    return _noted(kind(model, model_cfg, arch, preprocess["mean"], preprocess["std"]), note, images)


def said_architecture(source: ClipSource) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model config of a source, and how images are normalised for it; its weights are not read.

    Raises:
        UnknownNameError: No such architecture.
        WeightsError: The folder is missing, or its config cannot be read.
    """
    if source.folder:
        model_cfg, preprocess, _ = folder_config(source.folder)
        return model_cfg, preprocess
    own = architecture(source.arch)
    quick = bool(own.get("quick_gelu", False)) if source.quick_gelu is None else source.quick_gelu
    return activation.with_activation(own, quick), preprocess_of(source.arch)[0]


def _normalised(path: Path, arch: str) -> tuple[dict[str, Any], str]:
    """Return how images are normalised for a file: as configs beside it say, else as its architecture; and a note."""
    own, note = preprocess_of(arch)
    beside = said_beside(path)
    if not beside:
        return own, f"{path.name}: {note}" if note else ""
    differs = any(beside.get(name, value) != value for name, value in own.items())
    return beside, f"{path.name}: images are normalised as the config beside it says, not as {arch}" if differs else ""


def _noted(clip: Clip, *notes: str) -> Clip:
    """Add notes on how a CLIP was read to those that it has already."""
    clip.notes = (*filter(None, notes), *clip.notes)
    return clip


def from_folder(kind: type[Clip], folder: str | Path, resize_position: bool = False) -> Clip:
    """Load a folder with a config and weights; see `BaseClip.from_folder`."""
    model_cfg, preprocess, config = folder_config(folder)
    kind.check_config(model_cfg, name_of(folder))
    place = locate(folder)
    path, note = weights_of(place), ""
    weights = read_clip(path)
    told = "quick_gelu" in model_cfg or config.name == TRANSFORMERS
    if said := None if told else activation.said_by(path, weights, configs=False):
        quick, note = activation.choose(path.name, "the model of open_clip_config.json", False, said)
        model_cfg = activation.with_activation(model_cfg, quick)
    text = model_cfg["text_cfg"]
    own_words = text.get("hf_tokenizer_name") or text.get("vocab_size", CLIP_TOKENS) != CLIP_TOKENS
    words = tokenizer_files(place) if own_words else []
    clip = from_config(kind, model_cfg, weights.tensors, name_of(folder), preprocess, path.name, resize_position, words)
    if words:  # not in the config that the hash is made of: it is a place
        clip.text_cfg = {**clip.text_cfg, "hf_tokenizer_name": str(place)}
    return _noted(clip, note, *weights.notes)


def from_config(
    kind: type[Clip],
    model_cfg: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    name: str = "custom",
    preprocess_cfg: Mapping[str, Any] | None = None,
    source: str = "the state dict",
    resize_position: bool = False,
    words: Sequence[Path] = (),
) -> Clip:
    """Build a CLIP from config and weights; see `BaseClip.from_config`.

    ``source`` names the weights in messages, and ``words`` are the files of the tokenizer that they bring.
    """
    model_cfg = dict(model_cfg)
    model = build_model(model_cfg, name, kind.check_config)
    own = model.state_dict()
    state, notes = fit_tables(own, _own_names(own, state_dict), resize_position, source, name)
    load_strict(model, state, source, name, DERIVED)
    preprocess = preprocess_cfg or {}
    mean = three(preprocess.get("mean", OPENAI_MEAN), "mean of preprocess_cfg")
    std = three(preprocess.get("std", OPENAI_STD), "std of preprocess_cfg", positive=True)
    return _noted(kind(model, model_cfg, name, mean, std, hashes_of(words)), *notes)


def _own_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which a text tower has the name that it has here: none, or ``text.``."""
    table = "positional_embedding"
    if table in own and f"text.{table}" in state and table not in state:
        return {key.removeprefix("text."): value for key, value in state.items()}
    if table in own or table not in state:
        return dict(state)
    roots = ("visual.", "logit_scale", "logit_bias", "text.")
    return {key if key.startswith(roots) else f"text.{key}": value for key, value in state.items()}


def _is_path(pretrained: str | Path) -> bool:
    text = str(pretrained)
    return isinstance(pretrained, Path) or "/" in text or text.endswith(_FILE_SUFFIXES) or os.path.isfile(text)


def _short(pretrained: str | Path) -> str:
    return Path(pretrained).stem if _is_path(pretrained) else str(pretrained)
