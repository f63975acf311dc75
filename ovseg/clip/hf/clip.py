"""A frozen image-text model of transformers, from its folder or repository."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ovseg.checkpoint.clip_files import bare
from ovseg.checkpoint.shards import read_whole, weights_of
from ovseg.checkpoint.strict import load_strict
from ovseg.clip.folders import folder_config, hashes_of, locate, name_of, read_json, tokenizer_files
from ovseg.clip.hf import families, texts
from ovseg.clip.hf.package import import_transformers
from ovseg.clip.hf.vision import HfTower
from ovseg.clip.position_tables import fit_tables
from ovseg.clip.preprocessing import normalisation
from ovseg.clip.sources import ClipSource
from ovseg.clip.text_passes import Pass
from ovseg.clip.vit_clip import ViTClip
from ovseg.errors import ConfigError, EnvironmentProblem, WeightsError
from ovseg.system.device import CPU

DERIVED = (r".+\.position_ids", r".+\.token_type_ids", r"text_model\.(roberta\.)?pooler\.dense\.(weight|bias)")
"""Ranges of numbers that follow from the config, and the pooler of BERT, which no text goes through."""


class HfClip(ViTClip):
    """An image-text model of transformers, frozen; build one by `from_folder`.

    Attributes:
        tower: The image tower.
    """

    tower: HfTower  # type: ignore[assignment]  # other parts of the same form
    check_config = staticmethod(families.check_config)
    image_parts: ClassVar[tuple[str, ...]] = ("vision_model.", "visual_projection.", "logit_")

    @staticmethod
    def tower_of(model: Any) -> HfTower:  # type: ignore[override]
        """Adapt the image tower; see `BaseClip.tower_of`."""
        return HfTower(model)

    @classmethod
    def read(cls, source: ClipSource, empty: bool = False) -> Self:
        """Build the model of a folder or repository; see `ovseg.clip.towers.Reader`.

        Raises:
            OvsegError: As `from_folder`.
        """
        return cls.from_folder(source.folder, source.resize_position)

    @classmethod
    def from_folder(cls, folder: str | Path, resize_position: bool = False) -> Self:
        """Load a folder with ``config.json``, weights and tokenizer, as transformers saves them; no code of it runs.

        ``hf:OWNER/NAME`` is a repository of the hub, see `ovseg.clip.folders`.

        Raises:
            EnvironmentProblem: transformers is not installed, or too old for the model.
            ConfigError: The model is of no family that is known here, or needs code of its own.
            WeightsError: The folder, its config, tokenizer or weights are missing, corrupt or do not fit.
        """
        config, name = read_json(folder_config(folder).file), name_of(folder)
        cls.check_config(config, name)
        model, place = build_model(config, name), locate(folder)
        words = tokenizer_files(place)
        if not words:
            raise WeightsError(f"{place} holds no tokenizer; expected tokenizer.json or the like beside the weights")
        path = weights_of(place)
        found, own = bare(read_whole(path).content, path), model.state_dict()
        state, notes = fit_tables(own, own_names(own, found.tensors), resize_position, path.name, name)
        load_strict(model, state, path.name, name, DERIVED)
        family = families.FAMILIES[config["model_type"]]
        said = normalisation(place)
        mean, std = (said.get(key, own) for key, own in zip(("mean", "std"), family.normalisation, strict=True))
        meaning = {
            **families.meaning(config),
            "embed_dim": embed_dim_of(model),
            "text_cfg": text_config(model, family, place),
        }
        clip = cls(model, meaning, name, mean, std, hashes_of(words))
        clip.notes = (*found.notes, *notes)
        return clip

    @property
    def family(self) -> families.Family:
        """The family of the model."""
        return families.FAMILIES[self.model_cfg["model_type"]]

    @property
    def activation(self) -> str:
        """Activation of the feed-forward networks of its image tower."""
        return str(self.model.config.vision_config.hidden_act)

    @property
    def recipe(self) -> str:
        """How its dense features come about; see `Tower.recipe`."""
        own = "; position embeddings are always resized as NaFlex was trained" if self.tower.flexible else ""
        return super().recipe + own

    @property
    def meaning(self) -> Mapping[str, Any]:
        """What gives the weights their meaning; where the tokenizer lies is no part of it, what it holds is."""
        text = {key: value for key, value in self.text_cfg.items() if key != "hf_tokenizer_name"}
        return {**super().meaning, "text_cfg": text}

    def text_passes(self, tokens: Tensor) -> Iterator[Pass]:
        """Plan how tokens (N, n) go through the text tower; see `BaseClip.text_passes`."""
        return texts.passes(self.model, self.family, tokens)


def build_model(config: Mapping[str, Any], name: str) -> nn.Module:
    """Build a model of transformers in float32, whose weights have no value yet.

    Args:
        config: Content of ``config.json``, of one of `ovseg.clip.hf.families.FAMILIES`.
        name: What to call it in messages.

    Raises:
        EnvironmentProblem: transformers is not installed, or too old for the model.
        ConfigError: transformers refuses the config.
    """
    family = families.FAMILIES[config["model_type"]]
    transformers = import_transformers(f"{name}, {family.word},")
    kind = getattr(transformers, family.model, None)
    if kind is None:
        raise EnvironmentProblem(
            f"transformers {transformers.__version__} has no {family.model}; run `pip install -U 'ovseg[hf]'`"
        )
    try:
        own = kind.config_class.from_dict(families.meaning(config))
        with torch.device("meta"):  # random weights, which nobody needs, would take minutes
            model: nn.Module = kind(own)
    except Exception as error:  # transformers checks configs by a validator of its own, which raises anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConfigError(f"transformers cannot build {name} from its config: {reason}") from error
    model.to_empty(device=CPU).float()
    _fill_buffers(model, name)
    return model


def _fill_buffers(model: nn.Module, name: str) -> None:
    """Fill the buffers that no file holds.

    Raises:
        EnvironmentProblem: There is one of which is not known what it holds.
    """
    stored = model.state_dict().keys()
    for key, buffer in model.named_buffers():
        if key in stored:
            continue
        if key.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
        elif key.endswith("token_type_ids"):
            buffer.zero_()
        else:
            raise EnvironmentProblem(f"this version of transformers keeps {key} in {name}, which is not known here")


def own_names(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a file by the names of a model: its blocks lie in ``layer`` or ``layers`` (AltCLIP)."""
    swapped = {key: key.replace("encoder.layers.", "encoder.layer.") for key in own}
    ours = {theirs: key for key, theirs in swapped.items()}
    return {ours.get(key.replace("encoder.layers.", "encoder.layer."), key): value for key, value in state.items()}


def embed_dim_of(model: Any) -> int:
    """Return the dimension of the joint space."""
    projection = getattr(model, "visual_projection", None)
    return int(projection.out_features if projection is not None else model.config.vision_config.hidden_size)


def text_config(model: Any, family: families.Family, folder: Path) -> dict[str, Any]:
    """Return what `ovseg.clip.text_tokens.TextTokens` has to know of the texts of a model.

    Args:
        model: Built.
        family: Of it.
        folder: Where its tokenizer lies.
    """
    text = model.config.text_config
    # RoBERTa counts places from behind the number of its padding.
    taken = text.pad_token_id + 1 if text.model_type == "altclip_text_model" else 0
    limits = [text.max_position_embeddings - taken, family.room or math.inf, _said_limit(folder)]
    clean = "canonicalize" if _said(folder).get("tokenizer_class") == "SiglipTokenizer" else family.clean
    return {
        "context_length": int(min(limits)) if family.texts != families.PADDED else text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "hf_tokenizer_name": str(folder),
        "tokenizer_kwargs": {"clean": clean},
    }


def _said_limit(folder: Path) -> float:
    found = _said(folder).get("model_max_length")
    return found if isinstance(found, int | float) and found > 0 else math.inf


def _said(folder: Path) -> dict[str, Any]:
    """Return what a tokenizer says of itself; empty where it says nothing."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}
