"""What the benchmarks share: the unit of time, peak memory, processes of their own, and what stages of a call cost."""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar
from unittest import mock

import torch

from ovseg.errors import EnvironmentProblem
from ovseg.system.device import CPU

if TYPE_CHECKING:
    from ovseg.clip import ViTClip

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20
WHOLE, REST = "whole", "rest"  # of a call
UNIT, UNIT_ARCH, UNIT_SIZE = "open_clip encode_image", "ViT-B-16", 224

Case = TypeVar("Case")
Result = TypeVar("Result")


class PeakMemory:
    """Peak memory of a block above the level before it, in ``extra`` (bytes); blocks may lie in one another.

    On the CPU it is the high-water mark of the resident set that the kernel keeps, exact however short the peak is;
    elsewhere what PyTorch's allocator of the device counts.

    Attributes:
        level: Bytes before the block.
        peak: Bytes at the peak.
        extra: Bytes between the two.
    """

    running: ClassVar[list[PeakMemory]] = []
    """Those on the CPU whose blocks are under way."""

    def __init__(self, device: torch.device) -> None:
        """Prepare for work on `device`.

        Raises:
            EnvironmentProblem: Memory cannot be measured on this system or device.
        """
        self.module = None if device.type == "cpu" else getattr(torch, device.type)
        if self.module is None:
            try:
                _note_peak()
            except OSError as error:
                raise EnvironmentProblem(
                    f"peaks of memory on the CPU are read from /proc/self, which failed ({error}); run it on Linux"
                ) from error
        if self.module is not None and not hasattr(self.module, "reset_peak_memory_stats"):
            raise EnvironmentProblem(f"PyTorch counts no peak memory on '{device.type}'; use --device cpu")
        self.level = self.peak = self.extra = 0

    def __enter__(self) -> PeakMemory:
        """Take the level and start to watch."""
        if self.module is not None:
            self.module.synchronize()
            self.module.reset_peak_memory_stats()
            self.level = self.module.memory_allocated()
            return self
        _note_peak()
        self.level = self.peak = held("VmRSS")
        self.running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        if self.module is not None:
            self.module.synchronize()
            self.peak = self.module.max_memory_allocated()
        else:
            _note_peak()
            self.running.remove(self)
        self.extra = self.peak - self.level


def held(what: str) -> int:
    """Return bytes of this process by their name in /proc/self/status: ``VmRSS`` now, ``VmHWM`` at most."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def _note_peak() -> None:
    """Tell all watches that run the peak since the last call, and begin anew: the kernel keeps but one."""
    peak = held("VmHWM")
    for watch in PeakMemory.running:
        watch.peak = max(watch.peak, peak)
    CLEAR_REFS.write_text("5")


def in_fresh_process(
    measure: Callable[[Case], Result], case: Case, what: str, environment: Mapping[str, str] | None = None
) -> Result:
    """Run `measure` in a process of its own, because memory freed earlier would be used again unseen.

    Args:
        measure: A function of a module.
        case: Its argument.
        what: What to call it in messages.
        environment: Variables that are added to those of this process.

    Raises:
        EnvironmentProblem: The process was ended from outside, most likely for want of memory.
    """
    try:
        with (
            mock.patch.dict(os.environ, environment or {}),
            ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
        ):
            return pool.submit(measure, case).result()
    except BrokenProcessPool as error:
        raise EnvironmentProblem(
            f"{what} was ended by the system; expected enough free memory: close other programs, or choose a smaller "
            "--size"
        ) from error


@dataclass(frozen=True)
class Stage:
    """A part of a model's way from an image to results, as a function that is called once for an image.

    Attributes:
        name: What it is called in the table.
        owner: Module, class or object that has the function.
        function: Its name there.
        calls: How often it may run for an image.
        extra: Whether it runs only where the scores of every class are wanted.
    """

    name: str
    owner: Any
    function: str
    calls: int = 1
    extra: bool = False


@dataclass
class Cost:
    """What a stage took in one call of a model.

    Attributes:
        calls: How often it ran.
        seconds: Without the stages that are called in it.
        bytes: Peak above the level before the stage, with what is called in it; 0 where memory is not watched.
        peak: That peak above nothing: all that the process holds.
        at_most: How often it may run.
        extra: Whether it is for the scores of every class alone.
    """

    calls: int = 0
    seconds: float = 0.0
    bytes: int = 0
    peak: int = 0
    at_most: int = 1
    extra: bool = False


class Recorder:
    """Takes down what stages cost while the block of `running` runs."""

    def __init__(self, stages: list[Stage], memory: bool = False) -> None:
        """Prepare; with ``memory`` their peaks are watched, which takes time."""
        self.stages, self.memory = stages, memory
        self.costs = {stage.name: Cost(at_most=stage.calls, extra=stage.extra) for stage in stages}
        self.inner: list[float] = []  # for each open stage the seconds of the stages in it

    @contextmanager
    def running(self) -> Iterator[dict[str, Cost]]:
        """Record the calls of the block."""
        with ExitStack() as stack:
            for stage in self.stages:
                own = getattr(stage.owner, stage.function)
                stack.enter_context(mock.patch.object(stage.owner, stage.function, self._recorded(stage.name, own)))
            yield self.costs

    def _recorded(self, name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        cost = self.costs[name]

        @functools.wraps(own)
        def call(*arguments: Any, **options: Any) -> Any:
            cost.calls += 1
            self.inner.append(0.0)
            with PeakMemory(CPU) if self.memory else nullcontext() as peak:
                start = time.perf_counter()
                result = own(*arguments, **options)
                took = time.perf_counter() - start
            cost.seconds += took - self.inner.pop()
            if self.inner:
                self.inner[-1] += took
            if peak is not None:
                cost.bytes, cost.peak = max(cost.bytes, peak.extra), max(cost.peak, peak.peak)
            return result

        return call


def random_clip(arch: str, size: int) -> ViTClip:
    """Build a CLIP with random weights whose position table fits the image, so that nothing is resized."""
    from ovseg.clip import ViTClip
    from ovseg.clip.open_clip_internals import build_model, import_open_clip

    model_cfg = import_open_clip().get_model_config(arch)
    model_cfg["vision_cfg"]["image_size"] = size
    model_cfg["quick_gelu"] = True
    return ViTClip.from_config(model_cfg, build_model(model_cfg, arch).state_dict(), arch)


def unit_clock() -> Callable[[], float]:
    """Return a function that measures the unit in which models are timed.

    It encodes one image by a plain open_clip in float32 on the CPU, at each call, and returns the seconds. Call it
    right before each timed call, so that a slow moment of the machine hits both alike.
    """
    model = random_clip(UNIT_ARCH, UNIT_SIZE).model
    image = torch.randn(1, 3, UNIT_SIZE, UNIT_SIZE)

    @torch.inference_mode()
    def encode() -> float:
        start = time.perf_counter()
        model.encode_image(image)
        return time.perf_counter() - start

    encode()  # the first call prepares what later ones use
    return encode


def ratio(ours: Sequence[float], baseline: Sequence[float]) -> float:
    """Return the median over rounds of how much longer ours took than the baseline of the same round."""
    return statistics.median(a / b for a, b in zip(ours, baseline, strict=False))


def positive(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no count; expected 1 or more")
    return int(text)
