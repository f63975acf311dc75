"""Building models of open_clip, and what a model would be before any weights are made."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ovseg.clip.hf.package import import_transformers, local_files
from ovseg.clip.open_clip_vit import ViTTower
from ovseg.clip.timm_vit import TimmTower
from ovseg.errors import ConfigError, EnvironmentProblem, unknown_name
from ovseg.system.device import CPU

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def import_open_clip() -> ModuleType:
    """Import open_clip at first use.

    Raises:
        EnvironmentProblem: It is not installed or cannot be imported.
    """
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: torch and torchvision of different builds
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(f"cannot import open_clip ({reason}); run `pip install open_clip_torch`") from error
    return open_clip


def vision_config(model_cfg: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the part of a model configuration that describes the image tower.

    Raises:
        ConfigError: A part of the configuration is missing.
    """
    missing = [part for part in ("vision_cfg", "text_cfg") if not isinstance(model_cfg.get(part), dict)]
    missing += [] if "embed_dim" in model_cfg else ["embed_dim"]
    if missing:
        raise ConfigError(f"the model config of {name} lacks {', '.join(missing)}; expected an open_clip model_cfg")
    return dict(model_cfg["vision_cfg"])


def check_config(model_cfg: dict[str, Any], name: str) -> None:
    """Refuse a model configuration before anything is built or downloaded; errors as of `look`."""
    look(model_cfg, name)


def look(model_cfg: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return what a vision transformer of a config has, of the names of `ovseg.clip.tokens`; no weights are made.

    Raises:
        ConfigError: A part is missing, or the image tower is no vision transformer that is known here.
        UnknownNameError: timm has no model of this name; near matches are named.
    """
    vision = vision_config(model_cfg, name)
    if isinstance(vision.get("layers"), list | tuple):
        raise ConfigError(f"{name} has a ResNet tower; expected a vision transformer such as ViT-B-16")
    timm_name = str(vision.get("timm_model_name") or "")
    if timm_name:
        import_open_clip()
        from open_clip.timm_model import timm

        if not timm.is_model(timm_name.partition(".")[0]):
            raise unknown_name("timm model", timm_name, timm.list_models())
    parts = {key: model_cfg.get(key) for key in ("embed_dim", "vision_cfg", "quick_gelu")}
    try:
        return _look(json.dumps(parts, sort_keys=True))
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    except _CANNOT_BUILD as error:
        raise _not_built(name, error) from error


@cache
def _look(parts: str) -> frozenset[str]:
    import_open_clip()
    from open_clip.model import _build_vision_tower

    config = json.loads(parts)
    with torch.device("meta"), _WithoutValues():
        visual = _build_vision_tower(config["embed_dim"], config["vision_cfg"], bool(config["quick_gelu"]))
    return adapt(visual).has


def adapt(visual: Any) -> ViTTower | TimmTower:
    """Adapt a vision transformer of open_clip, its own or one of timm.

    Raises:
        ConfigError: It is of a kind that is not known here.
    """
    return TimmTower(visual) if hasattr(visual, "trunk") else ViTTower(visual)


class _WithoutValues(TorchFunctionMode):
    """Leaves out what only fills tensors that have no values: initialising them takes most of the time to build one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, first = getattr(func, "__name__", ""), args[0] if args else (kwargs or {}).get("tensor")
        fills = name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
        if fills and isinstance(first, Tensor) and first.is_meta:
            return first
        return func(*args, **(kwargs or {}))


def build_model(
    model_cfg: dict[str, Any], name: str, check: Callable[[dict[str, Any], str], None] = check_config
) -> nn.Module:
    """Build an open_clip model with random weights.

    Args:
        model_cfg: As in open_clip's ``model_configs/*.json``.
        name: What to call it in messages.
        check: Refuses configs before anything is built.

    Raises:
        ConfigError: open_clip refuses the configuration.
    """
    check(model_cfg, name)
    open_clip = import_open_clip()
    config = copy.deepcopy(model_cfg)
    config["text_cfg"].pop("hf_model_pretrained", None)
    from_hub = bool(config["text_cfg"].get("hf_model_name"))
    if from_hub:
        import_transformers(f"the text tower of {name}")
        config["text_cfg"]["hf_model_pretrained"] = False
        config["text_cfg"]["hf_model_name"] = local_files(config["text_cfg"]["hf_model_name"])
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) or from_hub else open_clip.CLIP
    if "multimodal_cfg" in config:
        kind = open_clip.CoCa
    try:
        with torch.random.fork_rng(devices=[]):  # the random weights are overwritten: leave the user's generator alone
            return kind(**config)
    except _CANNOT_BUILD as error:
        raise _not_built(name, error) from error


_CANNOT_BUILD = (TypeError, ValueError, AssertionError, KeyError, RuntimeError)


def _not_built(name: str, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(f"open_clip cannot build {name} from its config: {reason}")


def build_empty(model_cfg: dict[str, Any], name: str, check: Callable[[dict[str, Any], str], None]) -> nn.Module:
    """Build an open_clip model whose weights take no memory yet (device ``meta``); assign them before it runs.

    Arguments and errors are those of `build_model`.
    """
    if model_cfg.get("text_cfg", {}).get("hf_model_name"):
        return _emptied(build_model(model_cfg, name, check))
    with torch.device("meta"):
        model = build_model(model_cfg, name, check)
    module: Any
    for module in model.modules():  # buffers that no checkpoint holds
        mask = getattr(module, "attn_mask", None)
        if isinstance(mask, Tensor):  # what a token may not see is what follows it
            module.attn_mask = torch.full(mask.shape, float("-inf"), device=CPU).triu_(1)
        if hasattr(module, "init_non_persistent_buffers"):  # timm's
            for key, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(key, torch.empty_like(buffer, device=CPU), persistent=False)
            module.init_non_persistent_buffers()
    return model


def _emptied(model: nn.Module) -> nn.Module:
    """Take the memory of all that a checkpoint holds: buffers that it does not hold are made by transformers alone."""
    stored = model.state_dict().keys()
    module: Any
    for prefix, module in model.named_modules():
        for own in (module._parameters, module._buffers):
            for name, value in own.items():
                if value is not None and (f"{prefix}.{name}" if prefix else name) in stored:
                    empty = value.detach().to("meta")
                    own[name] = nn.Parameter(empty, requires_grad=False) if own is module._parameters else empty
    return model
