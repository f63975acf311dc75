"""Models that propose masks, with random weights of full size, and what their stages cost on the CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import CPU, REST, WHOLE, Cost, PeakMemory, Recorder, Stage
from ovseg.checkpoint.loading import Weights
from ovseg.clip.base import BaseClip
from ovseg.config import load_config
from ovseg.contract import Words, check_want
from ovseg.errors import ConfigError
from ovseg.labelling import objects
from ovseg.meta_arch.fcclip import model as fcclip
from ovseg.meta_arch.mask_model import MaskModel
from ovseg.meta_arch.san import model as san

SCALE = 100.0  # between cosines and logits, in CLIPs that are trained


def san_stages(model: Any) -> list[Stage]:
    """Return the stages of a SAN."""
    return [
        Stage("normalise", model, "normalise"),
        Stage("pad", model, "padded"),
        Stage("CLIP", san, "run_patches"),
        Stage("side adapter", model.side_adapter, "forward"),
        Stage("tokens of masks", san, "run_tail"),
        Stage("text tower", model.clip, "text", calls=0),
        Stage("text classifier", san, "class_logits"),
        Stage("labels", objects, "semantic_map"),
        Stage("labels and class maps", objects, "labels_and_maps", extra=True),
    ]


def fcclip_stages(model: Any) -> list[Stage]:
    """Return the stages of an FC-CLIP."""
    return [
        Stage("normalise", model, "normalise"),
        Stage("pad", model, "padded"),
        Stage("trunk", model.clip, "levels"),
        Stage("pixel decoder", model.pixel_decoder, "forward"),
        Stage("masked decoder", model.decoder, "forward"),
        Stage("what CLIP sees in masks", model.clip, "pool"),
        Stage("text tower", model.clip, "text", calls=0),
        Stage("text classifier", model, "trained_logits"),
        Stage("CLIP's classifier", model, "class_scores"),  # without the ensemble, which is called in it
        Stage("ensemble", fcclip.Ensemble, "scores"),
        Stage("labels", objects, "semantic_map"),
        Stage("segments and instances", objects, "panoptic_and_instances"),
        Stage("labels and class maps", objects, "labels_and_maps", extra=True),
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
    model.text_cache = None  # what random weights make of texts is not to be remembered
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


def call(
    model: MaskModel,
    image: Tensor,
    size: tuple[int, int],
    words: Words,
    stages: list[Stage],
    memory: bool = False,
    want: frozenset[str] | None = None,
) -> dict[str, Cost]:
    """Encode an image and answer what it shows, as every entrance does.

    Args:
        model: Of `build`.
        image: (3, h, w) uint8.
        size: Height and width of the result in pixels.
        words: Of the model.
        stages: What is recorded.
        memory: Whether peaks are watched, too.
        want: What is computed; None as for a user who says nothing.

    Returns:
        The costs of each stage, of the rest and of the whole.
    """
    wanted = check_want(want, model.gives, type(model).__name__)
    with Recorder(stages, memory).running() as costs, PeakMemory(CPU) if memory else nullcontext() as peak:
        start = time.perf_counter()
        model.answer(model.encode([image]), 0, size, words, wanted)
        seconds = time.perf_counter() - start
    rest = seconds - sum(cost.seconds for cost in costs.values())
    whole = Cost(1, seconds, 0 if peak is None else peak.extra)
    return {**costs, REST: Cost(1, rest), WHOLE: whole}
