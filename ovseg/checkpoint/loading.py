"""Weights of trained models: a released file of the authors or one of ours, with or without CLIP inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ovseg.checkpoint.files import read_part
from ovseg.checkpoint.run_state import read_run_state
from ovseg.checkpoint.strict import translate
from ovseg.checkpoint.trained import trained_state

_SCALE = "clip.model.logit_scale"


class Weights(NamedTuple):
    """A checkpoint: its tensors by name, what to call it, and the state of a training that it is, in words."""

    state: Mapping[str, Tensor]
    source: str
    training: str = ""

    @classmethod
    def read(cls, path: str | Path) -> Weights:
        """Read a file as Detectron2 or safetensors write it, or ``last.pt`` of a training (its average, if it has one).

        Raises:
            WeightsError: It is missing or cannot be read.
        """
        if run := read_run_state(path):
            return cls(run.weights, Path(path).name, str(run))
        return cls(read_part(path, "model"), Path(path).name)


class Official(NamedTuple):
    """How the authors of a model store it.

    Attributes:
        model: What to call it.
        mark: How names start that no file of ours has.
        name_of: Gives the original's name of one of our tensors.
        derived: Regular expressions for tensors of the original that follow from its configuration.
        check_rest: Checks what the original stores besides, given our state dict, and returns the tensors without it.
    """

    model: str
    mark: str
    name_of: Callable[[str], str]
    derived: Sequence[str] = ()
    check_rest: Callable[[Mapping[str, Tensor], Weights], Mapping[str, Tensor]] | None = None

    def holds_clip(self, weights: Weights | None) -> bool:
        """Tell whether a checkpoint, of the original or ours, brings its whole CLIP along."""
        return weights is not None and (_SCALE in weights.state or self.name_of(_SCALE) in weights.state)


def load(model: Any, weights: Weights, official: Official) -> None:
    """Load a checkpoint strictly; weights that are still on ``meta`` are put in place, and the hashes follow.

    Args:
        model: A `MaskModel` of the same configuration.
        weights: In the original's layout; or ours, the whole state dict or the part that was trained
            (`ovseg.checkpoint.trained.trained_state`).
        official: The original's layout.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped.
    """
    own, state = model.state_dict(), weights.state
    if any(key.startswith(official.mark) for key in state):
        state = state if official.check_rest is None else official.check_rest(own, weights)
        found = translate(own, state, official.name_of, weights.source, official.model, official.derived)
    else:
        wanted = own if official.holds_clip(weights) else trained_state(model)
        found = translate(wanted, state, str, weights.source, official.model)
    assign(model, found)
    model.refresh_hash()


def assign(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put tensors in place that fit; what lies on ``meta`` is replaced, the rest is copied into."""
    own = model.state_dict()
    empty = {key: value.to(own[key].dtype) for key, value in state.items() if own[key].is_meta}
    model.load_state_dict(empty, strict=False, assign=True)
    model.load_state_dict({key: value for key, value in state.items() if key not in empty}, strict=False)
