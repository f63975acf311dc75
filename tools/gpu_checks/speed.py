"""Absolute times on a device: models at full size with random weights, eager, compiled and as CUDA graphs, by words.

What a time is worth stands beside it: the rate of the network's products as a share of that of a plain product.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from benchmarks.ops import seconds_of
from benchmarks.training_free import OUTPUT, photo, sclip
from benchmarks.words import plain_vocabulary, random_words
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gpu_checks.models import random_model
from gpu_checks.rows import DTYPES, Job, Row, Skipped, found

CLASSES = (20, 150, 847)
MODELS = ("san/san-vit-b-16", "fcclip/fcclip-convnext-l", "SCLIP ViT-B-16")
SMALL_MODELS = ("san/san-vit-b-16",)


def run(job: Job) -> list[Row]:
    """Measure the machine, then models."""
    rates: dict[str, float] = {}
    rows = [found("machine", lambda: machine(job, rates))]
    for name in SMALL_MODELS if job.small else MODELS:
        dtypes = ("fp32",) if job.small else tuple(DTYPES)
        for dtype in dtypes:
            rows += model_rows(name, dtype, job, rates)
    return rows


def machine(job: Job, rates: dict[str, float]) -> Row:
    """Measure the bandwidth of a copy (reads and writes counted) and the rate of a product in each precision."""
    side, count = (512, 2**22) if job.small else (8192, 2**28)
    source = torch.ones(count, device=job.device)
    target = torch.empty_like(source)
    repeats = 2 if job.small else 10
    copy = 2 * source.nbytes / min(seconds_of(lambda: target.copy_(source), job.device) for _ in range(repeats))
    numbers = {"copy GB/s": copy / 1e9}
    for name, dtype in DTYPES.items():
        square = torch.ones(side, side, device=job.device, dtype=dtype)
        best = min(seconds_of(lambda own=square: own @ own, job.device) for _ in range(repeats))
        rates[name] = 2 * side**3 / best
        numbers[f"matmul {name} TFLOP/s"] = rates[name] / 1e12
    name = torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else str(job.device)
    return Row("machine", remark=f"{name}, torch {torch.__version__}", numbers=numbers)


def model_rows(name: str, dtype: str, job: Job, rates: dict[str, float]) -> list[Row]:
    """Build a model once, and measure it in every way."""
    side = 224 if job.small else 640
    try:
        if name.startswith("SCLIP"):
            model: Any = sclip(1)[0]
            image, output = photo(), OUTPUT
        else:
            model, output = random_model(name), (side, side)
            image = torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(0)).byte()
        words = {
            count: random_words(model, plain_vocabulary(count)) for count in (CLASSES[:2] if job.small else CLASSES)
        }
        model.place(job.device, DTYPES[dtype])
    except Exception as error:
        return [Row(f"{name}, {dtype}", "FAIL", f"cannot be built: {type(error).__name__}: {error}"[:300])]
    title, repeats = f"{name}, {dtype}", 1 if job.small else 10
    rows = [found(f"{title}, encode", lambda: encode(f"{title}, encode", model, image, job, repeats, rates.get(dtype)))]
    for count, own in words.items():
        row = f"{title}, {count} classes to labels"
        rows.append(found(row, lambda row=row, own=own: label(row, model, image, output, own, job, repeats)))
    rows.append(found(f"{title}, CUDA graph", lambda: graph(f"{title}, CUDA graph", model, image, job, repeats)))
    rows.append(found(f"{title}, compiled", lambda: compiled(f"{title}, compiled", model, image, job, repeats)))
    return rows


def median(call: Callable[[], Any], job: Job, repeats: int) -> float:
    """Return the median of the seconds of a call, after one that prepares what later ones use."""
    seconds_of(call, job.device)
    return statistics.median(seconds_of(call, job.device) for _ in range(repeats))


def encode(row: str, model: Any, image: Tensor, job: Job, repeats: int, rate: float | None) -> Row:
    """Time what knows no words, and say how near its products come to the rate of a plain product."""
    with FlopCounterMode(display=False) as counter:
        model.encode([image])
    seconds = median(lambda: model.encode([image]), job, repeats)
    flops = counter.get_total_flops()
    numbers = {"ms": 1000 * seconds, "GFLOP": flops / 1e9}
    if rate:
        numbers["matmul %"] = 100 * flops / seconds / rate
    return Row(row, numbers=numbers)


def label(row: str, model: Any, image: Tensor, output: tuple[int, int], words: Any, job: Job, repeats: int) -> Row:
    """Time an image from pixels to labels on the host."""
    call = lambda: torch.as_tensor(model.answer(model.encode([image]), 0, output, words).labels).cpu()  # noqa: E731
    return Row(row, numbers={"ms": 1000 * median(call, job, repeats)})


def inputs_of_network(model: Any, image: Tensor) -> tuple[Any, ...]:
    """Return what the compiled part of a model gets for an image."""
    with mock.patch.object(model, "network", wraps=model.network) as seen:
        model.encode([image])
    if seen.call_args is None:
        raise Skipped("this model has no part that is run as one graph")
    return tuple(seen.call_args.args)


@torch.inference_mode()
def graph(row: str, model: Any, image: Tensor, job: Job, repeats: int) -> Row:
    """Record what `model.network` does as a CUDA graph, and time playing it."""
    if job.device.type != "cuda":
        raise Skipped("CUDA alone has graphs")
    inputs = inputs_of_network(model, image)
    side_stream = torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for _ in range(3):
            model.network(*inputs)
    torch.cuda.current_stream().wait_stream(side_stream)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        model.network(*inputs)
    eager = median(lambda: model.network(*inputs), job, repeats)
    played = median(recorded.replay, job, repeats)
    return Row(row, numbers={"ms": 1000 * played, "eager ms": 1000 * eager})


def compiled(row: str, model: Any, image: Tensor, job: Job, repeats: int) -> Row:
    """Compile the network as `--compile` does, and time encoding; last, for the model stays so."""
    if job.small:
        raise Skipped("takes minutes on a CPU; tests of the models compile")
    if model.not_compiled:
        raise Skipped(str(model.not_compiled))
    start = time.perf_counter()
    model.compile_network()
    model.encode([image])
    first = time.perf_counter() - start
    return Row(row, numbers={"ms": 1000 * median(lambda: model.encode([image]), job, repeats), "compile s": first})
