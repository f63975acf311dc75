"""Strict loading, under our names or those of another code base; a tensor without its place is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from ovseg.errors import WeightsError

DERIVED = (r"attn_mask", r"text\.attn_mask", r"text\.transformer\.embeddings\.position_ids")
"""Buffers of a CLIP that follow from its configuration; some versions and TorchScript archives store them."""

Renames = Sequence[tuple[str, str]]
"""Pairs of a regular expression for our names and a replacement that gives the original's; the first match counts."""


def rename(key: str, renames: Renames) -> str:
    """Return the original's name of one of our tensors; without a match it is ours."""
    for pattern, replacement in renames:
        renamed, count = re.subn(f"^(?:{pattern})$", replacement, key)
        if count:
            return renamed
    return key


def load_strict(
    model: nn.Module, state: Mapping[str, Tensor], source: str, name: str, derived: Sequence[str] = ()
) -> None:
    """Load weights under our own names, every one of them and nothing else; arguments as of `translate`.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped.
    """
    model.load_state_dict(translate(model.state_dict(), state, str, source, name, derived))


def translate(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    name_of: Callable[[str], str],
    source: str,
    model: str,
    derived: Sequence[str] = (),
) -> dict[str, Tensor]:
    """Bring tensors from the original's names to ours, all of them and nothing else.

    Weights of 1 x 1 convolutions fit linear layers, and scalars fit single elements.

    Args:
        own: Our state dict; only shapes and types are read.
        state: The original's.
        name_of: Gives the original's name of one of ours; several of ours may share one.
        source: What to call the file in messages.
        model: What to call the model.
        derived: Regular expressions for tensors of the original that follow from its configuration.

    Returns:
        A state dict with our names and shapes.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped, as the original calls them.
    """
    names = {key: name_of(key) for key in own}
    known = set(names.values())
    missing = [name for name in dict.fromkeys(names.values()) if name not in state]
    strange = [key for key in state if key not in known and not any(re.fullmatch(p, key) for p in derived)]
    if len(missing) == len(known):
        raise WeightsError(f"{source} holds none of the {len(known)} tensors of {model}; is it another model?")
    odd = [
        f"{name} (got {tuple(state[name].shape)} {state[name].dtype}, expected {tuple(own[key].shape)})"
        for key, name in names.items()
        if name in state and not _fits(state[name], own[key])
    ]
    found = (("misses", missing), ("has unexpected", strange), ("has mis-shaped", odd))
    if problems := [f"it {what} {_first(keys)}" for what, keys in found if keys]:
        raise WeightsError(f"{source} does not fit {model}: {'; '.join(problems)}; is it for another config?")
    return {key: state[name].reshape(own[key].shape) for key, name in names.items()}


def _fits(tensor: Tensor, place: Tensor) -> bool:
    return _squeezed(tensor) == _squeezed(place) and tensor.is_floating_point() == place.is_floating_point()


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Return a shape without 1 x 1 kernels; a single element has none."""
    shape = tuple(tensor.shape)
    if tensor.numel() == 1:
        return ()
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape


def _first(keys: list[str], count: int = 3) -> str:
    more = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + more
