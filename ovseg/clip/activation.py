"""With which GELU a CLIP was trained: what a weights file says of it, what the user says, or what has to be assumed.

Weights of OpenAI, and all that were tuned from them, need QuickGELU; open_clip builds exact GELU unless the name of the
architecture ends with ``-quickgelu``. Both kinds have the same tensors, and the wrong one only makes features worse.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovseg.checkpoint.clip_files import OPENAI, ClipWeights
from ovseg.clip.architectures import architecture
from ovseg.clip.open_clip_internals import import_open_clip
from ovseg.errors import WeightsError, one_of

TWIN = "-quickgelu"
GELU, QUICK_GELU = "gelu", "quick_gelu"
OPENAI_TAG = "openai"
_WORDS = {False: "exact GELU", True: "QuickGELU"}


class Said(NamedTuple):
    """What something says of the activation.

    Attributes:
        quick: Whether it is QuickGELU.
        by: What says so.
    """

    quick: bool
    by: str


def asked(activation: str) -> bool | None:
    """Return whether ``MODEL.CLIP.ACTIVATION`` asks for QuickGELU; None where it leaves that open.

    Raises:
        ConfigError: It is another word.
    """
    return one_of("MODEL.CLIP.ACTIVATION", activation, (GELU, QUICK_GELU)) == QUICK_GELU if activation else None


def name_of(model_cfg: Mapping[str, Any]) -> str:
    """Return the activation of an open_clip model config: ``gelu`` or ``quick_gelu``."""
    return QUICK_GELU if model_cfg.get("quick_gelu") else GELU


def with_activation(model_cfg: Mapping[str, Any], quick: bool) -> dict[str, Any]:
    """Return a model config with an activation; as open_clip writes it, so that equal models have equal configs."""
    if quick == bool(model_cfg.get("quick_gelu")):
        return dict(model_cfg)
    return {
        **{key: value for key, value in model_cfg.items() if key != "quick_gelu"},
        **({"quick_gelu": True} if quick else {}),
    }


def said_by(path: Path, file: ClipWeights, configs: bool = True) -> Said | None:
    """Return what a weights file says, in its layout, in its remarks, or by the configs beside it; None for nothing.

    Args:
        path: Of the file.
        file: What was read of it.
        configs: Whether open_clip's own config beside it counts; not where that is followed already.
    """
    if file.layout == OPENAI:
        return Said(True, "its layout, which is OpenAI's,")
    readers = (_of_open_clip_config, _of_open_clip_run) if configs else ()
    for reader in (lambda _path: _of_remarks(file.remarks), *readers, _of_hugging_face):
        if found := reader(path):
            return found
    return None


def choose(what: str, architecture: str, quick: bool, said: Said | None) -> tuple[bool, str]:
    """Choose the activation of weights that nobody has asked one for, and say it.

    A choice that differs from the architecture, and one that nothing tells, are warnings of one line.

    Args:
        what: The weights, in words.
        architecture: By the name that the user gave it.
        quick: Whether it has QuickGELU.
        said: What the weights say.

    Returns:
        Whether it is QuickGELU, and a note for results; empty where no other activation comes into question.
    """
    twin = twin_of(architecture)
    if said is not None:
        note = f"{what} runs with {_WORDS[said.quick]}, as {said.by} says"
        if said.quick != quick:
            note += f"; {architecture} has {_WORDS[quick]}{f', {twin} is the one' if twin else ''}"
            warnings.warn(note, stacklevel=2)
        return said.quick, note
    if not twin:
        return quick, ""
    note = (
        f"{what} runs with {_WORDS[quick]}, as {architecture} has it; it does not say itself with which it was trained"
    )
    if not quick:
        warnings.warn(
            f"{note}: name {twin} for QuickGELU, which weights of OpenAI and their fine-tunes need, "
            f"or set MODEL.CLIP.ACTIVATION to {GELU} or {QUICK_GELU}",
            stacklevel=2,
        )
    return quick, note


def of_tag(arch: str, tag: str, config: Mapping[str, Any]) -> bool:
    """Tell whether weights of a tag run with QuickGELU, which nobody has asked for.

    Args:
        arch: Architecture, whose name decides; older versions of open_clip list a tag that needs it with both.
        tag: OpenAI's run with QuickGELU by either name.
        config: What open_clip has about the tag.

    Raises:
        WeightsError: The weights need QuickGELU, and the architecture has exact GELU.
    """
    if architecture(arch).get("quick_gelu"):
        return True
    clean = tag.lower().replace("-", "_")
    needed = config.get("quick_gelu") or clean in import_open_clip().list_pretrained_tags_by_model(f"{arch}{TWIN}")
    if needed and clean != OPENAI_TAG:
        twin = twin_of(arch)
        raise WeightsError(
            f"{arch}/{tag} needs QuickGELU, and {arch} has exact GELU; {f'name {twin}/{tag}, or ' if twin else ''}"
            f"set MODEL.CLIP.ACTIVATION to {QUICK_GELU}"
        )
    return clean == OPENAI_TAG


def twin_of(architecture: str) -> str:
    """Return the architecture of open_clip that has the other activation; empty where there is none."""
    twin = architecture.removesuffix(TWIN) if architecture.endswith(TWIN) else f"{architecture}{TWIN}"
    return twin if twin in import_open_clip().list_models() else ""


def _of_remarks(remarks: Mapping[str, str]) -> Said | None:
    """Read metadata, or what open_clip and others write beside a state dict."""
    for key, value in remarks.items():
        text = str(value).strip().lower()
        if key == "quick_gelu" and text in ("true", "1", "false", "0"):
            return Said(text in ("true", "1"), f"its '{key}'")
        if key in ("hidden_act", "activation") and text in (GELU, QUICK_GELU):
            return Said(text == QUICK_GELU, f"its '{key}'")
        if key in ("name", "arch", "architecture", "model", "model_name") and (found := _of_architecture(str(value))):
            return Said(found[0], f"its '{key}' ({found[1]})")
    return None


def _of_architecture(text: str) -> tuple[bool, str] | None:
    """Find an architecture in its own name or in that of a training by open_clip (``...-model_ViT-B-16-lr_...``)."""
    run = re.search(r"model_(.+?)-lr_", text)
    name = (run.group(1) if run else text).replace("/", "-")
    if name not in import_open_clip().list_models():
        return None
    return bool(import_open_clip().get_model_config(name).get("quick_gelu")), name


def _of_open_clip_config(path: Path) -> Said | None:
    config = _json(path.with_name("open_clip_config.json")).get("model_cfg")
    return Said(bool(config.get("quick_gelu")), "open_clip_config.json beside it") if isinstance(config, dict) else None


def _of_open_clip_run(path: Path) -> Said | None:
    """Read ``params.txt``, which open_clip's training writes beside or above its checkpoints."""
    for folder in (path.parent, path.parent.parent) if path.parent.name == "checkpoints" else (path.parent,):
        try:
            lines = (folder / "params.txt").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            continue
        params = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        by = "params.txt of its training"
        if params.get("force_quick_gelu", "").lower() == "true" or params.get("pretrained", "").lower() == "openai":
            return Said(True, by)
        if found := _of_architecture(params.get("model", "")):
            return Said(found[0], by)
    return None


def _of_hugging_face(path: Path) -> Said | None:
    config = _json(path.with_name("config.json"))
    parts = (config, config.get("vision_config"), config.get("text_config"))
    acts = [
        part["hidden_act"] for part in parts if isinstance(part, dict) and part.get("hidden_act") in (GELU, QUICK_GELU)
    ]
    return Said(acts[0] == QUICK_GELU, "config.json beside it") if acts else None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
