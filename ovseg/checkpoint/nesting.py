"""Where in a checkpoint its weights lie: under names, several deep, beside an optimizer, or twice, once averaged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

AVERAGED = (
    "state_dict_ema",
    "model_state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "model_ema",
    "ema_model",
    "ema",
    "average",
    "shadow",
)
"""How trainings call the moving average of their weights; `timm` and the original repositories evaluate with it."""

PLAIN = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params"),
    *("clip", "clip_model"),
)
"""How they call the weights themselves; the first that is there is looked into."""

_WRAPPERS = re.compile(r"(?:^|(?<=\.))_(?:orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)\.")
"""What PyTorch puts into names of what is compiled, sharded or checkpointed, be it the whole or a part."""
_DEEP = 6


class Nested(NamedTuple):
    """What lies in a checkpoint.

    Attributes:
        state: The innermost mapping, ordinarily of tensors by name.
        remarks: The texts that lie beside it.
        notes: What was left out or chosen, in words; empty where there was nothing to choose.
    """

    state: dict[str, Any]
    remarks: dict[str, str]
    notes: tuple[str, ...]


def unwrap(raw: Mapping[Any, Any]) -> Nested:
    """Go down to the weights of a checkpoint.

    Where it holds an average of its weights, that is taken: it is what their authors evaluate. Tensors that the average
    lacks, such as the statistics of norms, are those beside it.

    Args:
        raw: As it was read.
    """
    remarks: dict[str, str] = {}
    notes: list[str] = []
    found = raw
    for _ in range(_DEEP):
        remarks |= {str(key): value for key, value in found.items() if isinstance(value, str)}
        inside = [key for key in (*AVERAGED, *PLAIN) if _holds_arrays(found.get(key))]
        if not inside:
            break
        taken = inside[0]
        plain = next((key for key in inside if key in PLAIN), "")
        beside = unwrap(found[plain]) if taken in AVERAGED and plain else None
        found = found[taken]
        if beside is not None:
            own = unwrap(found)
            filled = own.state.keys() < beside.state.keys()
            notes.append(
                f"its average '{taken}' is taken, not '{plain}'"
                + (f" ({len(beside.state) - len(own.state)} tensors that it lacks are)" if filled else "")
            )
            found = {**beside.state, **own.state} if filled else own.state
    return Nested(_without_wrappers(found), remarks, tuple(notes))


def _holds_arrays(value: Any, deep: int = _DEEP) -> bool:
    """Tell whether a value is a mapping with a tensor somewhere in it."""
    if not isinstance(value, Mapping) or not deep:
        return False
    return any(isinstance(one, Tensor | np.ndarray) or _holds_arrays(one, deep - 1) for one in value.values())


def _without_wrappers(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a state dict without what wrappers put into its names, and `DataParallel` before all of them."""
    found = {_WRAPPERS.sub("", str(key)): value for key, value in state.items()}
    while found and all(key.startswith("module.") for key in found):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    return found
