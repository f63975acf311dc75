"""Models that propose masks, with random weights of full size, and what their stages cost on the CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from benchmark_common import CPU, REST, WHOLE, Cost, PeakMemory, Recorder, Stage
from torch import Tensor

from ovseg.checkpoint.loading import Weights
from ovseg.clip.base import BaseClip
from ovseg.config import load_config
from ovseg.errors import ConfigError
from ovseg.meta_arch import fcclip, mask_model, mask_results, san
from ovseg.meta_arch.mask_model import MaskModel
from ovseg.vocabulary import Vocabulary

SCALE = 100.0  # between cosines and logits, in CLIPs that are trained


def san_stages(model: Any) -> list[Stage]:
    """Return the stages of a SAN."""
    return [
        Stage("normalise, pad", model, "batch"),
        Stage("CLIP", san, "run_patches"),
        Stage("side adapter", model.side_adapter, "forward"),
        Stage("tokens of masks", san, "run_tail"),
        Stage("text tower", model.clip, "text", calls=0),
        Stage("text classifier", san, "class_logits"),
        Stage("labels", mask_model, "semantic_map"),
        Stage("class maps", mask_model, "class_maps", extra=True),
    ]


def fcclip_stages(model: Any) -> list[Stage]:
    """Return the stages of an FC-CLIP."""
    return [
        Stage("normalise, pad", model, "batch"),
        Stage("trunk", model.clip, "levels"),
        Stage("pixel decoder", model.pixel_decoder, "forward"),
        Stage("masked decoder", model.decoder, "forward"),
        Stage("text tower", model.clip, "text", calls=0),
        Stage("text classifier", model, "trained_logits"),
        Stage("out-of-vocabulary branch", model, "class_scores"),  # without the ensemble, which is called in it
        Stage("ensemble", fcclip.Ensemble, "scores"),
        Stage("labels", mask_model, "semantic_map"),
        Stage("panoptic segments", mask_results, "panoptic"),
        Stage("class maps", mask_model, "class_maps", extra=True),
        Stage("instances", mask_results, "instances", extra=True),
    ]


@dataclass(frozen=True)
class Kind:
    """How models of an architecture are built and taken apart: their class and their stages."""

    model: Any
    stages: Callable[[Any], list[Stage]]


KINDS = {
    "SAN": Kind(san.SAN, san_stages),
    "FCCLIP": Kind(fcclip.FCCLIP, fcclip_stages),
}


def build(config: str) -> MaskModel:
    """Build a model with random weights; a CLIP that the config names is not downloaded but filled at random.

    Raises:
        ConfigError: The architecture is not measured here.
    """
    kind = kind_of(config)
    promise = {"clip.model.logit_scale": torch.zeros(())}  # weights that bring a CLIP along, so that none is fetched
    parts = kind.model.parts(load_config(config), Weights(promise, "random weights"))
    fill(parts["clip"])
    model: MaskModel = kind.model(**{**parts, "weights": None})
    model.text_cache = None  # random embeddings are not to be remembered
    return model.eval()


def kind_of(config: str) -> Kind:
    """Return how models of a config are measured.

    Raises:
        ConfigError: The architecture is not measured here, or the config cannot be read.
    """
    name = load_config(config).MODEL.META_ARCHITECTURE
    if name not in KINDS:
        raise ConfigError(f"'{config}' is for {name}, whose stages are not measured; expected {' or '.join(KINDS)}")
    return KINDS[name]


def fill(clip: BaseClip) -> None:
    """Give an empty CLIP random weights that keep signals at their size; weights that are there stay."""
    generator = torch.Generator().manual_seed(0)
    state = {
        key: random_weight(key, tuple(value.shape), generator)
        for key, value in clip.model.state_dict().items()
        if value.is_meta
    }
    clip.model.load_state_dict(state, strict=False, assign=True)
    clip.refresh()


def random_weight(key: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return normal weights by the number of inputs, factors of 1, or biases of 0."""
    if key.endswith("logit_scale"):
        return torch.full(shape, math.log(SCALE))
    if len(shape) < 2:
        return torch.zeros(shape) if key.endswith(("bias", "mean")) else torch.ones(shape)
    return torch.randn(shape, generator=generator) * math.prod(shape[1:]) ** -0.5


def set_words(model: MaskModel, classes: int) -> None:
    """Give a model classes of one to four names each, with random embeddings."""
    generator = torch.Generator().manual_seed(classes)
    dim = model.clip.embed_dim
    model.clip.text = lambda texts: torch.randn(len(texts), dim, generator=generator)
    names = [[f"thing {i}", *(f"thing {i} by name {j}" for j in range(i % 4))] for i in range(classes)]
    model.set_vocabulary(Vocabulary.parse(["|".join(own) for own in names]), templates="none")


def call(
    model: MaskModel, entry: dict[str, Any], stages: list[Stage], memory: bool = False, full_scores: bool = False
) -> dict[str, Cost]:
    """Run a model on an image and return the costs of each stage, of the rest and of the whole; bytes with `memory`."""
    model.full_scores = full_scores
    with Recorder(stages, memory).running() as costs, PeakMemory(CPU) if memory else nullcontext() as peak:
        start = time.perf_counter()
        model([dict(entry)])
        seconds = time.perf_counter() - start
    rest = seconds - sum(cost.seconds for cost in costs.values())
    whole = Cost(1, seconds, 0 if peak is None else peak.extra)
    return {**costs, REST: Cost(1, rest), WHOLE: whole}
