"""The trained part of Talk2DINO: a small network from the texts of CLIP to the patches of DINO, and its file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.checkpoint.loading import Official, Weights, load
from ovseg.checkpoint.strict import load_strict
from ovseg.errors import WeightsError, at_least, one_of

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "none": torch.clone,
}


class Projection(nn.Module):
    """Linear layers with an activation before each but the first; the names are those of the original."""

    def __init__(self, text_width: int, width: int, hidden: int = 1, activation: str = "tanh") -> None:
        """Build it untrained.

        Args:
            text_width: Of CLIP's texts.
            width: Of the patches.
            hidden: Layers behind the first.
            activation: One of `ACTIVATIONS`.

        Raises:
            ConfigError: There is no such activation, or no such number of layers.
        """
        super().__init__()
        self.activation = one_of("activation", activation, tuple(ACTIVATIONS))
        at_least("hidden", hidden, 0)
        self.linear_layer = nn.Linear(text_width, width)
        self.hidden_layers = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden))

    def forward(self, texts: Tensor) -> Tensor:
        """Bring texts (..., C), of the lengths that CLIP gives them, to the space of the patches: (..., D)."""
        found: Tensor = self.linear_layer(texts.to(self.linear_layer.weight.dtype))
        for layer in self.hidden_layers:
            found = layer(ACTIVATIONS[self.activation](found))
        return found


def hidden_layers(state: Mapping[str, Tensor]) -> int:
    """Return how many layers behind the first a state has, of the authors (earlier files included) or of ours."""
    found = {match[1] for key in state if (match := re.search(r"hidden_layers\.(\d+)\.weight$", key))}
    return len(found) or int(any(key.endswith("linear_layer2.weight") for key in state))


def read_projection(state: Mapping[str, Tensor], source: str, activation: str = "tanh") -> Projection:
    """Build a projection from a file of the authors; widths and layers are read from it.

    Args:
        state: Its tensors, ``linear_layer2`` of earlier files included.
        source: What to call it in messages.
        activation: Which the file does not say.

    Raises:
        WeightsError: The tensors are others; names them.
    """
    first = state.get("linear_layer.weight")
    if first is None or first.ndim != 2:
        raise WeightsError(f"{source} is no head of Talk2DINO; expected linear_layer.weight (D, C) and hidden_layers.*")
    found = Projection(first.shape[1], first.shape[0], hidden_layers(state), activation)
    load_strict(found, renamed(state), source, f"the head of Talk2DINO for {first.shape[0]} channels")
    return found


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state of the authors with the names of today."""
    return {re.sub(r"^linear_layer2\.", "hidden_layers.0.", key): value for key, value in state.items()}


def fill(model: Any, projection: Projection, weights: Weights) -> None:
    """Load the projection of a model strictly: a head of the authors; or of ours the trained part, or the whole model.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped.
    """
    if any(key.startswith("linear_layer") for key in weights.state):
        width = projection.linear_layer.out_features
        name = f"the head of Talk2DINO for {width} channels"
        load_strict(projection, renamed(weights.state), weights.source, name)
    else:
        load(model, weights, Official("Talk2DINO", "linear_layer", str))
