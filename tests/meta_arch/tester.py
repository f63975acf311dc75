"""What the tester of models compares and watches with."""

from __future__ import annotations

import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ovseg.contract import LABELS, Answer, Words
from tests.meta_arch.models import picture

SIZES = ((64, 96), (72, 64), (64, 96), (48, 80))
"""Height and width of images; the first and third are alike."""
NAMES = ["cat|kitten", "sofa", "window", "lamp", "river", "bread", "violin", "quark"]
LARGE = 10**6
"""Tensors of more numbers are not looked at one by one."""
WAIT = 60.0
"""Seconds after which two threads will not meet any more."""


def pictures() -> list[Tensor]:
    return [picture(*size, seed=seed) for seed, size in enumerate(SIZES)]


def ask(
    model: Any, images: Sequence[Tensor], words: Words, want: frozenset[str] = LABELS, size: Any = None
) -> list[Answer]:
    """Encode images together and answer for each, at its own size or at one for all."""
    encoded = model.encode(images)
    return [model.answer(encoded, i, size or encoded.sizes[i], words, want) for i in range(len(images))]


def assert_same(found: Answer, wanted: Answer) -> None:
    """The same to the last bit."""
    for name in ("labels", "scores", "class_scores"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other), name
    assert (found.panoptic is None) == (wanted.panoptic is None) and found.instances == wanted.instances
    if found.panoptic is not None and wanted.panoptic is not None:
        assert np.array_equal(found.panoptic.ids, wanted.panoptic.ids)
        assert found.panoptic.segments == wanted.panoptic.segments


def assert_near(found: Answer, wanted: Answer, tolerance: float = 1e-4) -> None:
    """Scores within a tolerance, and labels equal wherever the two best classes are farther apart than that."""
    assert found.class_scores is not None and wanted.class_scores is not None
    torch.testing.assert_close(found.class_scores, wanted.class_scores, atol=tolerance, rtol=0)
    torch.testing.assert_close(found.scores, wanted.scores, atol=tolerance, rtol=0)
    best = wanted.class_scores.topk(2, dim=0).values
    clear = best[0] - best[1] > tolerance
    assert torch.equal(found.labels[clear], wanted.labels[clear])


def state_of(thing: Any) -> dict[str, Any]:
    """Return everything that something holds, down to the numbers in its tensors, by the way to it."""
    found: dict[str, Any] = {}
    _walk(thing, "", found, set())
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what is not as it was."""
    return sorted(key for key in before.keys() | after.keys() if before.get(key, 0) != after.get(key, 0))


def _walk(value: Any, path: str, found: dict[str, Any], seen: set[int]) -> None:
    if isinstance(value, Tensor):
        if value.numel() > LARGE and not value.is_inference():
            found[path] = (value.data_ptr(), value._version)  # which PyTorch counts up with every change
            return
        numbers = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        found[path] = (str(value.dtype), tuple(value.shape), zlib.crc32(numbers.tobytes()))
    elif isinstance(value, dict):
        found[path] = len(value)
        for key, own in value.items():
            _walk(own, f"{path}[{key!r}]", found, seen)
    elif isinstance(value, list | tuple):
        found[path] = len(value)
        for index, own in enumerate(value):
            _walk(own, f"{path}[{index}]", found, seen)
    elif hasattr(value, "__dict__") and not isinstance(value, type) and not callable(getattr(value, "__code__", None)):
        known = type(value).__module__.partition(".")[0] in ("ovseg", "tests", "open_clip", "timm", "torch")
        if known and id(value) not in seen:
            seen.add(id(value))
            for name, own in vars(value).items():
                _walk(own, f"{path}.{name}", found, seen)
        else:
            found[path] = id(value)
    else:
        found[path] = value if isinstance(value, bool | int | float | str | bytes | frozenset) else repr(value)


def tensors_of(thing: Any, model: Any) -> list[Tensor]:
    """Return the tensors that something holds and that are not the model's own."""
    own = {value.untyped_storage().data_ptr() for value in model.state_dict().values()} if _is_module(model) else set()
    found: list[Tensor] = []
    _collect(thing, found, set())
    return [tensor for tensor in found if tensor.untyped_storage().data_ptr() not in own]


def _is_module(model: Any) -> bool:
    return isinstance(model, nn.Module)


def _collect(value: Any, found: list[Tensor], seen: set[int]) -> None:
    if id(value) in seen or isinstance(value, nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, dict):
        for own in value.values():
            _collect(own, found, seen)
    elif isinstance(value, list | tuple):
        for own in value:
            _collect(own, found, seen)
    elif type(value).__module__.startswith("ovseg") and hasattr(value, "__dict__"):
        for own in vars(value).values():
            _collect(own, found, seen)


def watch(monkeypatch: pytest.MonkeyPatch, functions: Iterable[Callable[..., Any]]) -> list[str]:
    """Return a list that gets the name of each call of some functions of ovseg, from wherever they are called."""
    calls: list[str] = []

    def watched(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            calls.append(function.__name__)
            return function(*arguments, **options)

        return run

    for function in functions:
        own = watched(function)
        for module in [module for name, module in sys.modules.items() if name.startswith("ovseg")]:
            for name, value in list(vars(module).items()):
                if value is function:
                    monkeypatch.setattr(module, name, own)
    return calls


@contextmanager
def replaced(thing: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Wrap a method of an object for a while; nothing of it is left behind."""
    vars(thing)[name] = make(getattr(thing, name))
    try:
        yield
    finally:
        del vars(thing)[name]


def meeting(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that begins when two threads are in it."""
    barrier = threading.Barrier(2, timeout=WAIT)

    def run(*arguments: Any, **options: Any) -> Any:
        barrier.wait()
        return method(*arguments, **options)

    return run


class Largest(TorchDispatchMode):
    """Sees how many numbers the largest tensor has that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, list | tuple) else [found]:
            if isinstance(value, Tensor):
                self.numbers = max(self.numbers, value.untyped_storage().nbytes() // max(value.element_size(), 1))
        return found
