"""Any vision transformer of timm as a guide: DINO, DINOv2, DINOv3, MAE and many more.

``timm:TAG`` fetches its weights, ``timm:TAG@FILE`` reads a file instead, in timm's or the authors' own layout. A tail
``#stride=N`` lets patches overlap: their embedding steps by N pixels, which gives a finer grid of as large patches.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.checkpoint.files import read_state_dict
from ovseg.checkpoint.hub import Source, fetch_first
from ovseg.checkpoint.strict import load_strict
from ovseg.clip.features import Context
from ovseg.clip.normalise import normalise
from ovseg.errors import ConfigError, EnvironmentProblem, WeightsError, unknown_name
from ovseg.guides.base import GUIDE_REGISTRY, Guide, entering

_OPEN = "vit_base_patch8_224.dino"  # is there for everybody
_EXPECTED = f"expected a plain vision transformer such as {_OPEN}"


class TimmGuide(Guide):
    """Features of the last block of a frozen vision transformer of timm.

    Images of any size are welcome: position embeddings are resized, and sides rounded to whole patches. The token facet
    is taken after the last norm; queries and keys are those of the projection, before any norm or rotation of theirs.
    """

    def __init__(self, backbone: Any, facet: str = "token", stride: int | None = None) -> None:
        """Adapt a backbone that timm built with ``dynamic_img_size=True``.

        Args:
            backbone: With its ``pretrained_cfg``, which says how images are normalised.
            facet: See `ovseg.guides.build_guide`.
            stride: Pixels between patches; None is their side.

        Raises:
            ConfigError: It is no plain vision transformer, or the stride is out of range.
        """
        super().__init__()
        self.backbone, self.facet = backbone, facet
        self.not_compiled = "" if facet == "token" else f"the guide's {facet} is read while its network runs"
        projection = getattr(getattr(backbone, "patch_embed", None), "proj", None)
        if not isinstance(projection, nn.Conv2d) or not hasattr(
            next(iter(getattr(backbone, "blocks", ())), None), "attn"
        ):
            raise ConfigError(f"guide is a {type(backbone).__name__} of timm; {_EXPECTED}")
        self.patch = int(projection.kernel_size[0])
        self.stride = self.patch if stride is None else stride
        if not 1 <= self.stride <= self.patch:
            raise ConfigError(f"guide stride is {self.stride}; expected 1 to {self.patch}, the side of its patches")
        projection.stride = (self.stride, self.stride)
        self.mean, self.std = (tuple(backbone.pretrained_cfg[key]) for key in ("mean", "std"))

    def forward(self, context: Context) -> Tensor:
        """Return features (B, C, h, w) in the dtype of the backbone."""
        height, width = (max(round(side / self.patch), 1) * self.patch for side in context.images.shape[2:])
        images = normalise(context.rgb, self.mean, self.std)
        if images.shape[2:] != (height, width):
            images = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False, antialias=True)
        images = images.to(self.backbone.patch_embed.proj.weight.dtype)
        tokens = self.backbone.forward_features(images) if self.facet == "token" else self._projected(images)
        grid = tuple((side - self.patch) // self.stride + 1 for side in (height, width))
        return tokens[:, self.backbone.num_prefix_tokens :].mT.unflatten(-1, grid)

    def _projected(self, images: Tensor) -> Tensor:
        """Return the facet of all tokens (B, N, C) from what enters the attention of the last block."""
        attention = self.backbone.blocks[-1].attn
        with entering([attention]) as entered:
            self.backbone.forward_features(images)
        query, key, value = projections(attention, entered[0])
        return {"query": query, "key": key, "value": value, "query+key": query + key}[self.facet]


def projections(attention: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    """Return queries, keys and values (B, N, C), heads joined, by the weights of an attention of timm."""
    if getattr(attention, "qkv", None) is None:  # DINOv3 and others keep three layers apart
        return tuple(getattr(attention, f"{name}_proj")(tokens) for name in "qkv")
    if getattr(attention, "q_bias", None) is None:
        together: Tensor = attention.qkv(tokens)
        return together.chunk(3, dim=-1)
    bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])  # EVA's and BEiT's, for keys have none
    return F.linear(tokens, attention.qkv.weight, bias).chunk(3, dim=-1)


@GUIDE_REGISTRY.register()
def timm(*, argument: str = "", facet: str = "token") -> Guide:
    """Build the guide ``timm:TAG[@FILE][#stride=N]``."""
    argument, _, option = argument.partition("#")
    tag, _, file = argument.partition("@")
    name, _, number = option.partition("=")
    if option and (name != "stride" or not number.isdecimal()):
        raise ConfigError(f"guide option '#{option}' is unknown; expected #stride=N, the pixels between patches")
    return TimmGuide(build_backbone(tag, file), facet, int(number) if option else None)


def build_backbone(tag: str, file: str = "") -> nn.Module:
    """Build a vision transformer of timm without its classifier.

    Args:
        tag: Such as ``vit_base_patch8_224.dino``.
        file: Weights; empty fetches those of the tag.

    Raises:
        UnknownNameError: timm has no such model.
        ConfigError: It cannot take images of any size.
        WeightsError: The file does not fit, cannot be fetched, or holds NaN.
    """
    library = _import_timm()
    architecture = tag.partition(".")[0]
    known = library.list_models(pretrained=True)
    if not library.is_model(architecture) or (not file and tag not in known and tag != architecture):
        raise unknown_name("timm model", tag, known)
    try:
        with torch.random.fork_rng(devices=[]):
            backbone = library.create_model(tag, pretrained=False, num_classes=0, dynamic_img_size=True)
    except TypeError as error:
        raise ConfigError(f"timm model '{tag}' takes no images of any size; {_EXPECTED}") from error
    _load(backbone, tag, file or str(fetch_first(sources_of(tag), f"timm:{tag}")))
    return backbone


def sources_of(tag: str) -> list[Source]:
    """Return where the weights of a tag may be: safetensors on the hub, a pickle there, a URL.

    Raises:
        UnknownNameError: timm has no weights of such a tag.
    """
    library = _import_timm()
    config = library.get_pretrained_cfg(tag) if library.is_model(tag.partition(".")[0]) else None
    if config is None:
        raise unknown_name("timm model", tag, library.list_models(pretrained=True))
    pickled, licence = config.hf_hub_filename or "pytorch_model.bin", config.license or ""
    safe = pickled.replace("pytorch_model.bin", "model.safetensors")  # also of open_clip_pytorch_model.bin
    names = dict.fromkeys([safe, pickled]) if config.hf_hub_id else ()
    other = "" if tag == _OPEN else f"timm:{_OPEN}"
    found = [Source(config.hf_hub_id, name, licence=licence, gated_alternative=other) for name in names]
    return [*found, *([Source(url=config.url, licence=licence)] if config.url else [])]


def _load(backbone: nn.Module, tag: str, file: str) -> None:
    """Load a file in timm's own layout, or in one that timm knows how to convert."""
    state = read_state_dict(file)
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    try:
        state = convert(state, backbone) if convert else state
    except (KeyError, RuntimeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{file} cannot be converted to timm:{tag} ({error}); is it another model?") from error
    heads = {key for key in state if key.startswith(("head.", "fc_norm."))} - set(backbone.state_dict())
    load_strict(backbone, {key: state[key] for key in state if key not in heads}, file, f"timm:{tag}")


def _import_timm() -> ModuleType:
    try:
        import timm as library
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise EnvironmentProblem(f"cannot import timm ({reason}); run `pip install timm`") from error
    return library
