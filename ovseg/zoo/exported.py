"""Files of `ovseg export` as models: what such a file stands for, and how its network and text tower are opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.config import config_root
from ovseg.errors import ConfigError
from ovseg.zoo.spec import ASKED, Layer, Spec

SUFFIXES = (".onnx", ".pt2")

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovseg.clip.tower import Tower
    from ovseg.meta_arch.exported.model import ExportedModel


def is_exported(model: str) -> bool:
    """Tell by its ending whether a name is that of a file of `ovseg export`."""
    return model.endswith(SUFFIXES)


def exported_spec(model: str, protocol: str, overrides: dict[str, Any] | None) -> Spec:
    """Return what a file stands for: the config of the model that was exported.

    Args:
        model: Its path.
        protocol: Must be empty.
        overrides: Changes of ``MODEL.TEXT`` alone.

    Raises:
        WeightsError: It is no such file.
        ConfigError: Something is to be changed that is fixed in the file.
    """
    from ovseg.meta_arch.exported.card import FileCard  # it brings PyTorch

    path = Path(os.path.expanduser(model))
    card = FileCard.read(path)
    if protocol:
        raise ConfigError(
            f"protocol '{protocol}' for {path.name}, whose settings are those of its export; leave it out"
        )
    node = (overrides or {}).get("MODEL", {})
    for key in [key for key in (overrides or {}) if key != "MODEL"] + [f"MODEL.{key}" for key in node if key != "TEXT"]:
        raise ConfigError(f"{key} is fixed in {path.name}; only MODEL.TEXT can be changed, so export the model anew")
    layers = [Layer(f"the model {card.model} in {path.name}", card.config)]
    layers += [Layer(ASKED, overrides)] if overrides else []
    return Spec(config_root() / "training_free/base.yaml", tuple(layers), None, str(path), model, exported=(path, card))


def open_exported(spec: Spec, text_tower: Callable[[str], Tower]) -> ExportedModel:
    """Open the file of a spec.

    Args:
        spec: Of `exported_spec`.
        text_tower: Gives the CLIP of a model by its name.

    Raises:
        WeightsError: The graph is damaged.
        EnvironmentProblem: A package is missing.
    """
    from ovseg.meta_arch.exported.model import ExportedModel
    from ovseg.meta_arch.exported.runtimes import open_runtime
    from ovseg.system.files import file_hash
    from ovseg.vocabulary import TextOptions

    if spec.exported is None:
        raise ConfigError(f"{spec.name} is no file of `ovseg export`")
    path, card = spec.exported
    text = TextOptions.from_config(spec.config.MODEL.TEXT)
    runtime = open_runtime(path, card)
    return ExportedModel(path, card, runtime, file_hash(path)[:16], lambda: text_tower(card.model), text)
