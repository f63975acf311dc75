"""The only place that names devices: turns ``"auto"`` and friends into torch devices and dtypes."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

from ovseg.errors import ConfigError, InputError

DEVICES = ("auto", "cpu", "cuda", "mps")
CPU = torch.device("cpu")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def available_devices() -> list[str]:
    """Return the device types that this machine can run on, fastest first."""
    found = ["cuda"] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return [*found, "cpu"]


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """Turn a device name into a torch device.

    Args:
        name: ``auto`` (the fastest that works), ``cpu``, ``cuda``, ``cuda:1``, ``mps`` or a ready device.

    Raises:
        ConfigError: The name is unknown, or this machine has no such device.
    """
    if isinstance(name, torch.device):
        name = str(name)
    kind = name.split(":")[0]
    if kind not in DEVICES or (kind == "auto" and name != kind):
        raise ConfigError(f"unknown device '{name}'; expected one of {', '.join(DEVICES)}, or for example cuda:1")
    present = available_devices()
    if kind == "auto":
        return torch.device(present[0])
    if kind not in present:
        raise ConfigError(f"device '{name}' is not available here; use --device {present[0]} or see `ovseg doctor`")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is not valid ({error}); expected for example cuda:0") from error
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if device.index is not None and device.index >= count:
        raise ConfigError(f"device '{name}' is not here; expected {' or '.join(f'{kind}:{i}' for i in range(count))}")
    return device


def resolve_dtype(name: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Turn a dtype name into a torch dtype; ``auto`` is fp16 on CUDA and fp32 elsewhere.

    Where the model is known, a measurement may say more of the CPU: see `ovseg.system.precision.choose`.

    Raises:
        ConfigError: The name is unknown.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype '{name}'; expected auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def check_settings(
    device: str | torch.device, dtype: str | torch.dtype, batch_size: int
) -> tuple[torch.device, torch.dtype]:
    """Resolve device and dtype and check the batch size.

    Raises:
        ConfigError: The device or dtype is not available, or the batch size is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch size is {batch_size}; expected at least 1")
    where = resolve_device(device)
    precision = resolve_dtype(dtype, where)
    if not precision.is_floating_point:
        raise ConfigError(f"dtype is {precision}; expected auto, fp32, bf16 or fp16")
    return where, precision


def device_of_process(name: str, rank: int) -> str:
    """Share accelerators out: ``auto`` and ``cuda`` become ``cuda:1`` in process 1, and so on in turn; others stay."""
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    return f"cuda:{rank % torch.cuda.device_count()}"


def is_cpu(device: torch.device) -> bool:
    """Tell whether it is the processor, for which other sizes of work are right than for an accelerator."""
    return device.type == "cpu"


@contextmanager
def fits(device: torch.device, what: str) -> Iterator[None]:
    """Make the error of a full memory, of an accelerator or of the machine, one of what is worked on.

    Args:
        device: Where the work is done.
        what: Names of the images.

    Raises:
        InputError: They do not fit.
    """
    try:
        yield
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise InputError(
            f"{what} does not fit into the memory of {device}; make it smaller, or use another device"
        ) from error


def processor() -> str:
    """Return maker and name of the processor, as the system has them; empty where it does not say."""
    known = _facts()
    return " ".join(known[key] for key in ("vendor_id", "model name") if key in known) or platform.processor()


def cpu_features() -> frozenset[str]:
    """Return the features of the processor by the names of Linux, such as ``avx512_bf16``; none on other systems."""
    return frozenset(_facts().get("flags", "").split())


@cache
def _facts() -> dict[str, str]:
    """Return what Linux says of the last processor of the machine; nothing on other systems."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(errors="replace").splitlines() if told.is_file() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def memory_in_use(device: torch.device) -> int:
    """Return the bytes in use now: of the accelerator, or of this process."""
    if not is_cpu(device) and torch.cuda.is_available():
        return torch.cuda.memory_allocated(device)
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages.is_file() else peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use so far: of the accelerator, or of this process."""
    if not is_cpu(device) and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_accelerator() -> None:
    """Give memory of the accelerator whose tensors are gone back, so that other processes can have it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def give_back(device: torch.device) -> None:
    """Give memory of this process that was freed back to the system, where the C library can; for work on the CPU.

    It keeps freed blocks for later ones, which then often do not fit, so that a large model comes to hold the blocks of
    one step beside those of the next. This takes some milliseconds.
    """
    if not is_cpu(device) or torch.compiler.is_compiling():
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def few_arenas(most: int = 2) -> None:
    """Let the threads of this process share their memory, where the C library can; for a server, at its start.

    It gives every thread an arena of its own, and what dozens of them have freed stays with them.
    """
    option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if option is not None:
        option(-8, most)  # M_ARENA_MAX of malloc.h


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; to a GPU through pinned memory, so that the copy overlaps what runs there."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
