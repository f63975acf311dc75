"""The part of a model that was trained: what checkpoints and exported models hold.

Frozen towers are many times larger than what is learnt, and known already; they are left out and come from where the
config says.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ovseg.checkpoint.strict import translate
from ovseg.errors import InputError

FORMAT = "ovseg-trained-1"
_STEP = ", step "


def frozen_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Return the names of modules that have parameters, all of them frozen, each with a dot behind it."""
    found: list[str] = []
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        frozen = parameters and not any(parameter.requires_grad for parameter in parameters)
        if name and frozen and not name.startswith(tuple(found)):
            found.append(f"{name}.")
    return tuple(found)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the trainable parameters, the buffers outside of frozen modules, and what was learnt before (``kept``)."""
    frozen, kept = frozen_prefixes(model), getattr(model, "kept", ())
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {
        key: value
        for key, value in model.state_dict().items()
        if key in kept or (key not in fixed and not key.startswith(frozen))
    }


def load_trained_state(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Fill the trained part of a model; everything else stays as it is.

    Args:
        model: Of the config that the state was trained with.
        state: As `trained_state` returns it.
        where: Where it comes from, for messages.

    Raises:
        WeightsError: Names the first tensors that are missing, unexpected or mis-shaped.
    """
    name = f"the {type(model).__name__} of this config"
    model.load_state_dict(translate(trained_state(model), state, str, where, name), strict=False)


def save_trained(state: dict[str, Tensor], path: Path, step: int | None = None) -> None:
    """Write a trained part as safetensors (atomically), with the number of steps that made it, where that is known.

    Raises:
        InputError: The file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from ovseg.system.files import atomic_write

    # One entry: safetensors writes several in any order, and the same weights are to be the same bytes.
    metadata = {"format": FORMAT if step is None else f"{FORMAT}{_STEP}{step}"}
    with atomic_write(path) as temporary:
        try:
            save_file({key: value.cpu().contiguous().clone() for key, value in state.items()}, temporary, metadata)
        except SafetensorError as error:  # what its writer makes of a full disk
            raise InputError(f"cannot write '{path}' ({error}); free some space, or choose another place") from error


def trained_step(path: Path) -> int | None:
    """Return after how many steps `save_trained` has written a file; None where it does not say."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return int((file.metadata() or {})["format"].partition(_STEP)[2])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
