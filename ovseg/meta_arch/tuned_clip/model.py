"""A CLIP and the recipe that tunes it: it answers by dense features, and leaves a CLIP for every method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ovseg.checkpoint.loading import Official, Weights, load
from ovseg.clip import ClipSource, load_tower
from ovseg.clip.base import BaseClip
from ovseg.clip.saving import CLIP_FOLDER, save_clip
from ovseg.contract import Words
from ovseg.errors import ConfigError
from ovseg.meta_arch.dense_model import DenseModel, view_of
from ovseg.meta_arch.section import lower_keys
from ovseg.meta_arch.tuned_clip.recipe import Recipe, View
from ovseg.meta_arch.tuned_clip.recipes import RECIPES
from ovseg.meta_arch.tuned_clip.weights import released
from ovseg.recalibration import RECALIBRATIONS
from ovseg.system.registry import build


@META_ARCH_REGISTRY.register()
class TunedClip(DenseModel):
    """A CLIP that is tuned for its dense features, asked by a training-free method (``MODEL.RECALIBRATION``).

    Attributes:
        recipe: How it is tuned; its heads are trained with the CLIP and are no part of what comes out.
        source: Where the original comes from, the teacher of most recipes.
        training_state: That of the training whose checkpoint it was filled from, in words; empty for finished weights.
    """

    @configurable
    def __init__(self, *, recipe: Recipe, source: ClipSource, weights: Weights | None = None, **parts: Any) -> None:
        """Put the parts together, see `DenseModel`; a Detectron2 config is accepted in their place.

        Args:
            recipe: See the class.
            source: Likewise.
            weights: What a training of ours has left; None, or weights of others, are in the CLIP already.
            parts: Of `DenseModel`.

        Raises:
            ConfigError: The CLIP is none of open_clip's, or lacks what the recipe needs.
            WeightsError: The weights do not fit.
        """
        super().__init__(**parts)
        if not isinstance(self.clip, BaseClip):
            raise ConfigError(f"{self.clip.name} is no CLIP of open_clip, which alone are tuned; name one of these")
        self.clip.check(recipe.requires, recipe.name)
        self.recipe, self.source, self.training_state = recipe, source, ""
        recipe.begin(self.clip)
        for parameter in recipe.parameters_of(self.clip):
            parameter.requires_grad_(True)
        self._original: tuple[BaseClip, ...] = ()  # in a tuple it is no part of the model's weights
        if weights is not None:
            load(self, weights, Official("TunedClip", "-", str))
            self.training_state = weights.training
        self.refresh_hash()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the parts that a config names; ``MODEL.WEIGHTS`` is a released CLIP or what a training has left.

        Raises:
            WeightsError: The checkpoint is missing or does not fit.
        """
        return cls.parts(cfg, Weights.read(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else None)

    @classmethod
    def parts(cls, cfg: CfgNode, weights: Weights | None) -> dict[str, Any]:
        """Build the parts that a config names, with the CLIP from the checkpoint if that is a whole one."""
        method: Any
        recipe: Any
        method, recipe = (
            build(kind, node.NAME, lower_keys(node.OPTIONS, f"MODEL.{word}.OPTIONS"))
            for kind, node, word in (
                (RECALIBRATIONS, cfg.MODEL.RECALIBRATION, "RECALIBRATION"),
                (RECIPES, cfg.MODEL.RECIPE, "RECIPE"),
            )
        )
        source = ClipSource.of(cfg.MODEL.CLIP)
        whole = None if weights is None else released(source, weights)
        clip = whole or load_tower(source, method.requires | recipe.requires, cls.__name__, fitting=method.fitting)
        return {
            **cls.around(cfg),
            "clip": clip,
            "size_rule": view_of(cfg, clip),
            "recalibration": method,
            "recipe": recipe,
            "source": source,
            "weights": None if whole else weights,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """What makes results besides the weights and the words, as JSON values; recorded in every result."""
        state = {"training": self.training_state} if self.training_state else {}
        return {**super().settings, "recipe": self.recipe.name, **state}

    def is_own(self, key: str) -> bool:
        """Tell by its name whether a weight makes results and is not CLIP's: heads of the recipe make none."""
        return not key.startswith("recipe.") and super().is_own(key)

    # Training.

    def samples(self) -> View | None:
        """Return what the recipe adds to the samples of the mapper."""
        return self.recipe.view(self.clip)

    def start_training(self, words: Words) -> None:
        """Load the original, for `MODEL.WEIGHTS` and checkpoints change the student alone; and let the recipe begin."""
        original: Any = load_tower(self.source, (), type(self).__name__)
        self._original = (original.to(self.clip.device, self.clip.dtype).eval().requires_grad_(False),)
        self.recipe.start(self.clip, original, words)

    @property
    def original(self) -> BaseClip:
        """The CLIP as it was, in a training.

        Raises:
            ConfigError: None has begun.
        """
        if not self._original:
            raise ConfigError("TunedClip has no original outside of a training; call start_training(words) first")
        return self._original[0]

    def losses(self, batched_inputs: Sequence[dict[str, Any]], words: Words) -> dict[str, Tensor]:
        """Return the weighted losses of a batch, by name; see `Recipe.losses`."""
        return self.recipe.losses(self.clip, self.original, batched_inputs, words)

    def after_step(self, step: int, steps: int) -> None:
        """Let the recipe follow a step of the optimizer; see `Recipe.after_step`."""
        with torch.no_grad():
            self.recipe.after_step(self.clip, step, steps)

    @contextlib.contextmanager
    def finished(self) -> Iterator[None]:
        """Have for a while the weights that the training would leave now; see `Recipe.final`."""
        trained = {key: value for key, value in self.clip.model.named_parameters() if value.requires_grad}
        before = dict(self.original.model.named_parameters())
        kept = {key: value.detach().clone() for key, value in trained.items()}
        final = self.recipe.final(kept, {key: before[key].detach() for key in trained})
        try:
            _put(trained, final)
            yield
        finally:
            _put(trained, kept)

    def leave(self, folder: Path) -> None:
        """Write the CLIP as it is now into the folder of a run, as open_clip has it: ``METHOD/RUN/clip`` takes it."""
        save_clip(self.clip, folder / CLIP_FOLDER)


@torch.no_grad()
def _put(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> None:
    for key, parameter in parameters.items():
        parameter.copy_(values[key])
