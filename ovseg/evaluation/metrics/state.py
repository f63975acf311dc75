"""What all evaluators are: measure an image, count it, merge, save and restore; all of it exact.

An image is measured once and becomes a *record*: a few integers, independent of the size of the class list. Counting is
the addition of integers, so order, processes and interruptions cannot change a bit of a result::

    record = evaluator.add(truth, prediction)        # = measure(...), then count(record)
    line = json.dumps(record.to_json())              # a line of a log, some hundred bytes
    evaluator.count(SemanticRecord.from_json(json.loads(line)))   # the same, in another process or after a kill

So there are two ways to go on after a kill, and both give equal bits: count the records of a log again, or
`save_states` now and then and `load_states`. What a record holds is told by its class: `SemanticRecord` is the sparse
confusion matrix of the image (for intersections and unions of classes, the paired bootstrap, best and worst images),
`PanopticRecord` its matches and mistakes, `InstanceRecord` the objects themselves (average precision ranks them over
all images, so nothing smaller would do), `PromptRecord` and `ReferringRecord` a prompt's pixels.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import typing
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from ovseg.errors import InputError
from ovseg.system.files import atomic_write

R = TypeVar("R", bound="Record")
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What an evaluator keeps of one image: fields that are int64 arrays or ints."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; `from_json` reads them back to the bit."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @classmethod
    def from_json(cls: type[R], values: Mapping[str, Any]) -> R:
        """Read what `to_json` wrote.

        Raises:
            InputError: A field is missing, unknown or of another kind.
        """
        hints = typing.get_type_hints(cls)
        try:
            return cls(**{name: _field(value, hints[name]) for name, value in values.items()})
        except (KeyError, TypeError, ValueError) as error:
            wanted = ", ".join(field.name for field in dataclasses.fields(cls))
            raise InputError(f"record of an image has {list(values)} ({error}); expected {wanted}; drop it") from error


def _field(value: Any, hint: Any) -> Any:
    return int(value) if hint is int else np.array(value, np.int64)


class Evaluator(abc.ABC, Generic[T]):
    """Sums over images; T is its result. Subclasses name their sums in `SUMS`, integers that merge by addition."""

    SUMS: ClassVar[tuple[str, ...]] = ()
    num_classes: int

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the arguments it was made with as JSON values; only equal ones merge."""

    @abc.abstractmethod
    def reset(self) -> None:
        """Forget all images."""

    @abc.abstractmethod
    def evaluate(self) -> T:
        """Return the scores of all images so far."""

    def merge(self, other: Any) -> None:
        """Add what another one has seen, exactly as if its images had been added here.

        Raises:
            InputError: It was made with other arguments.
        """
        self._check_settings(other.settings(), "merge evaluators")
        for name in self.SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def state(self) -> dict[str, np.ndarray]:
        """Return all it has counted, as arrays that no later image changes."""
        return {name: np.array(getattr(self, name)) for name in self.SUMS}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state` of an evaluator with the same arguments; what was counted here is forgotten."""
        for name in self.SUMS:
            setattr(self, name, np.array(state[name]))

    def _check_settings(self, other: Mapping[str, Any], what: str) -> None:
        mine = self.settings()
        if mine != other:
            names = [name for name in mine if mine[name] != other.get(name)]
            differ = "different arguments"
            if "num_classes" in mine:
                differ = f"{mine['num_classes']} and {other.get('num_classes', 'no')} classes or of different flags"
            raise InputError(
                f"cannot {what} of {differ} ({', '.join(names)}); expected both made with the same arguments"
            )


def save_states(path: str | Path, evaluators: Mapping[str, Evaluator[Any]], note: str = "") -> None:
    """Write what evaluators have counted to one compressed file, which `load_states` reads back to the bit.

    Args:
        path: An ``.npz`` file; a reader never sees half of one.
        evaluators: By any name.
        note: Goes along, for example which images are in.

    Raises:
        InputError: The file cannot be written.
    """
    settings = {name: one.settings() for name, one in evaluators.items()}
    arrays = {f"{name}/{key}": value for name, one in evaluators.items() for key, value in one.state().items()}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, settings=np.array(json.dumps(settings)), note=note, **arrays)


def load_states(path: str | Path, evaluators: Mapping[str, Evaluator[Any]]) -> str:
    """Let evaluators go on from a file of `save_states`.

    Returns:
        The note.

    Raises:
        InputError: The file is missing, damaged, or of other evaluators or arguments; no evaluator has changed then.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            settings, note = json.loads(str(file["settings"])), str(file["note"])
            found = {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"state '{path}' cannot be read ({error}); expected one of save_states, start anew") from error
    if settings.keys() != evaluators.keys():
        raise InputError(f"state '{path}' has {sorted(settings)}; expected {sorted(evaluators)}, start anew")
    for name, one in evaluators.items():
        one._check_settings(settings[name], f"take '{path}' for '{name}': it counts evaluators")
    for name, one in evaluators.items():
        one.restore({key.removeprefix(f"{name}/"): found[key] for key in found if key.startswith(f"{name}/")})
    return note
