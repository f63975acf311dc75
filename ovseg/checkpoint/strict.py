"""Strict loading, under our names or those of another code base; a tensor without its place is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ovseg.errors import WeightsError
from ovseg.system.values import some

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
    """Load weights under our own names, every one of them and nothing else; arguments and errors as of `translate`.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected, mis-shaped or not finite.
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
        WeightsError: Names the first tensors that are missing, unexpected, mis-shaped or not finite, as the original
            calls them.
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
    if problems := [f"it {what} {some(keys)}" for what, keys in found if keys]:
        raise WeightsError(f"{source} does not fit {model}: {'; '.join(problems)}; is it for another config?")
    check_finite({name: state[name] for name in known}, source)  # masks, infinite by design, are among what is derived
    return {key: state[name].reshape(own[key].shape) for key, name in names.items()}


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse weights that are no numbers: of a training that diverged, or of a damaged file.

    One pass over each tensor and no copy: it takes a tenth of a second for 1 GB.

    Args:
        tensors: By name, of any dtype.
        source: What to call the file in messages.

    Raises:
        WeightsError: Names the first of them, and says how much of it is not finite.
    """
    if broken := sorted(name for name, tensor in tensors.items() if not _is_finite(tensor)):
        first = tensors[broken[0]]
        count = int((~torch.isfinite(first)).sum())
        raise WeightsError(
            f"{source} holds NaN or infinite values in {some(broken)} ({count} of {first.numel()} in {broken[0]}); "
            "expected finite weights: get the file again, or take an earlier checkpoint"
        )


def _is_finite(tensor: Tensor) -> bool:
    """Tell by the smallest and the largest value, which take a tenth of the time of looking at each."""
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    values = tensor.float() if tensor.element_size() == 1 else tensor  # 8 bits have no order in PyTorch
    return all(bool(extreme.isfinite()) for extreme in values.aminmax())


def _fits(tensor: Tensor, place: Tensor) -> bool:
    return _squeezed(tensor) == _squeezed(place) and tensor.is_floating_point() == place.is_floating_point()


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Return a shape without 1 x 1 kernels; a single element has none."""
    shape = tuple(tensor.shape)
    if tensor.numel() == 1:
        return ()
    return shape[:2] if len(shape) == 4 and shape[2:] == (1, 1) else shape
