"""The part of a model that was trained: what checkpoints and exported models hold.

Frozen towers are many times larger than what is learnt, and known already; they are left out and come from where the
config says.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ovseg.errors import WeightsError

FORMAT = "ovseg-trained-1"


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
    """Return the trainable parameters, and the buffers outside of frozen modules."""
    frozen = frozen_prefixes(model)
    fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {key: value for key, value in model.state_dict().items() if key not in fixed and not key.startswith(frozen)}


def load_trained_state(model: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Fill the trained part of a model; everything else stays as it is.

    Args:
        model: Of the config that the state was trained with.
        state: As `trained_state` returns it.
        where: Where it comes from, for messages.

    Raises:
        WeightsError: A tensor is missing, left over, or has another shape; the message names it.
    """
    wanted = trained_state(model)
    for key in sorted(wanted.keys() | state.keys()):
        if key not in state:
            raise WeightsError(f"'{where}' lacks '{key}'; expected weights trained with this config")
        if key not in wanted:
            raise WeightsError(
                f"'{where}' has '{key}', which the model does not; expected weights trained with this config"
            )
        if wanted[key].shape != state[key].shape:
            raise WeightsError(
                f"'{where}' has '{key}' of shape {tuple(state[key].shape)}, the model {tuple(wanted[key].shape)}; "
                "expected weights trained with this config"
            )
    model.load_state_dict(state, strict=False)


def save_trained(state: dict[str, Tensor], path: Path) -> None:
    """Write a trained part as safetensors (atomically).

    Raises:
        InputError: The file cannot be written.
    """
    from safetensors.torch import save_file

    from ovseg.files import atomic_write

    with atomic_write(path) as temporary:
        save_file(
            {key: value.cpu().contiguous().clone() for key, value in state.items()}, temporary, {"format": FORMAT}
        )


def is_trained_file(path: str | Path) -> bool:
    """Tell whether a file was written by `save_trained`."""
    from safetensors import SafetensorError, safe_open

    if not str(path).endswith(".safetensors"):
        return False
    try:
        with safe_open(str(path), "pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def load_trained(model: nn.Module, path: str | Path) -> None:
    """Fill the trained part of a model from a file of `save_trained`.

    Raises:
        WeightsError: The file cannot be read or does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights '{path}' cannot be read ({error}); check the path, or train again") from error
    load_trained_state(model, state, str(path))
