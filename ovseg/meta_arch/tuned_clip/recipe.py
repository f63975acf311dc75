"""What a recipe is: how a CLIP is tuned so that its patches can be named, with or without labels.

To add one, put a file with one class into ``ovseg/meta_arch/tuned_clip/recipes/``::

    @RECIPE_REGISTRY.register()
    class Mine(Recipe):
        def __init__(self, *, weight: float = 1.0, **common: Any) -> None:   # options: MODEL.RECIPE.OPTIONS.WEIGHT
            super().__init__(**common)
            self.weight = weight

        def losses(self, student, original, batch, words):
            return {"loss_mine": self.weight * ...}

and a config with ``MODEL.META_ARCHITECTURE: TunedClip`` and ``MODEL.RECIPE: {NAME: Mine, OPTIONS: {WEIGHT: 0.5}}``. All
else is there: checkpoints, exact resume, validation, ``RUN/clip`` for every method. The other hooks have defaults:

- `begin` builds what needs the CLIP: heads (assign modules to ``self``: they are trained, saved in checkpoints, and not
  part of the CLIP that comes out). It runs when the model is built, before weights are read;
- `parameters_of` says which weights of the CLIP are trained (default: the last ``blocks`` blocks of the image tower);
- `view` gives a picklable callable that adds to a sample of the mapper, in the processes that read images;
- `start` runs once when a training begins, with the frozen original and the words that are learnt; a second teacher is
  loaded here. What must survive a kill is a parameter or a buffer of the recipe, all else must follow from the options;
- `after_step` runs behind each step of the optimizer: averages of teachers or of weights, kept in buffers;
- `final` turns the weights of the student to those that are validated and written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from ovseg.clip import Tower
from ovseg.clip.tokens import DENSE
from ovseg.errors import ConfigError, at_least
from ovseg.system.registry import Kind

if TYPE_CHECKING:
    from ovseg.contract import Words

RECIPE_REGISTRY = Registry("RECIPE")
RECIPE_REGISTRY.__doc__ = "Recipes by the name of their class."

Sample = dict[str, Any]
View = Callable[[Sample, np.random.Generator], Sample]
"""Given a sample of the mapper (`ovseg.data.mappers.TrainingMapper`) and what all chance comes from, what to add."""


class Recipe(nn.Module):
    """A way to tune a CLIP; see the top of this file.

    Attributes:
        requires: What the tower must have, of the names of `ovseg.clip.tokens`.
        blocks: So many of the last blocks of the image tower are trained; 0 is all.
        alpha: Share of the student in the weights that are validated and written; the rest is the original.
    """

    requires: ClassVar[frozenset[str]] = frozenset({DENSE})

    def __init__(self, *, blocks: int = 0, alpha: float = 1.0) -> None:
        """Set what all recipes have in common.

        Raises:
            ConfigError: An option has a value that is not allowed.
        """
        super().__init__()
        self.blocks, self.alpha = int(at_least("blocks", blocks, 0)), at_least("alpha", alpha, 0.0)
        if alpha > 1:
            raise ConfigError(f"alpha is {alpha}; expected 0 to 1, the share of the tuned weights")

    @property
    def name(self) -> str:
        """Name under which it is registered."""
        return type(self).__name__

    def begin(self, clip: Tower) -> None:
        """Build what needs to know the CLIP, heads for one; most recipes need nothing."""

    def parameters_of(self, clip: Tower) -> Iterable[nn.Parameter]:
        """Return the weights of the CLIP that are trained.

        Raises:
            ConfigError: It has fewer blocks.
        """
        if self.blocks > clip.depth:
            raise ConfigError(f"blocks is {self.blocks}; {clip.name} has {clip.depth}: expected 0 (all) to that")
        for block in clip.blocks[-self.blocks :] if self.blocks else clip.blocks:
            own: Any = block
            yield from own.module.parameters()

    def view(self, clip: Tower) -> View | None:
        """Return what adds to a sample; None where the sample of the mapper is enough."""
        return None

    def start(self, student: Tower, original: Tower, words: Words) -> None:
        """Get ready for a training: the original is frozen, the words are those that the data have."""

    def losses(self, student: Tower, original: Tower, batch: Sequence[Sample], words: Words) -> dict[str, Tensor]:
        """Return the weighted losses (scalars) of a batch, by name.

        Args:
            student: The CLIP that is tuned.
            original: The same as it was, frozen.
            batch: Samples of the mapper, with what `view` has added.
            words: That are learnt, of the original's texts.
        """
        raise NotImplementedError

    def after_step(self, student: Tower, step: int, steps: int) -> None:
        """Follow the optimizer's step ``step`` (from 0) of ``steps``."""

    def final(self, weights: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights that a training leaves, of those of the student and the original that are trained.

        Both have the names of the CLIP's state dict; ``alpha * student + (1 - alpha) * original`` ordinarily.
        """
        return {key: original[key].lerp(value, self.alpha) for key, value in weights.items()}


RECIPES: Kind[type[Recipe]] = Kind("recipe", RECIPE_REGISTRY)
