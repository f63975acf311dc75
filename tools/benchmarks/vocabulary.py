"""What more classes cost: one image from words in the cache to labels, by the dense branch and by SAN."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.stages import build
from benchmarks.training_free import INPUT, OUTPUT, label, photo, sclip
from benchmarks.words import plain_vocabulary, remember
from ovseg.config import config_root
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.system.device import resolve_device
from ovseg.vocabulary import TextCache

FEW, MANY = 20, 847
DENSE_CLASSES = (1, FEW, 150, MANY, 10_000)
SAN_CLASSES = (FEW, 150, MANY)
SIDES = (640, 640)
DENSE_GROWTH, SAN_GROWTH = 1.15, 1.4  # of MANY classes over FEW


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--repeats", type=positive, default=5, help="interleaved timed rounds (%(default)s)")
    parser.add_argument("--san", default=str(config_root() / "san/san-vit-b-16.yaml"), help="config of the SAN")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... or auto (%(default)s)")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    before = check_report_arguments(args)
    device = resolve_device(args.device)
    dense, san = sclip(1)[0].place(device, torch.float32), build(args.san).place(device, torch.float32)
    figures = measure("SCLIP", dense, photo(), OUTPUT, DENSE_CLASSES, DENSE_GROWTH, args.repeats)
    square = torch.nn.functional.interpolate(photo()[None].float(), SIDES)[0]
    figures += measure("SAN", san, square, SIDES, SAN_CLASSES, SAN_GROWTH, args.repeats)
    title = f"classes of one name; SCLIP {INPUT[0]}x{INPUT[1]} to {OUTPUT[0]}x{OUTPUT[1]}, SAN {SIDES[0]}x{SIDES[1]}"
    return report(title, figures, args, before)


def measure(
    name: str,
    model: Any,
    image: Tensor,
    output: tuple[int, int],
    sizes: tuple[int, ...],
    growth: float,
    repeats: int,
) -> list[Figure]:
    """Time an image with each number of classes in turn, words read from a cache on disk included."""
    with tempfile.TemporaryDirectory() as folder:
        calls = {size: prepare(model, image, output, size, Path(folder)) for size in sizes}
        rounds: dict[int, list[float]] = {size: [] for size in sizes}
        for turn in range(repeats + 1):
            for size, call in calls.items():
                start = time.perf_counter()
                call()
                if turn:  # the first round only warms up
                    rounds[size].append(time.perf_counter() - start)
    more = statistics.median(many / few for many, few in zip(rounds[MANY], rounds[FEW], strict=True))
    times = [Figure(f"{name}, {size} classes", statistics.median(rounds[size]), "s") for size in sizes]
    return [*times, Figure(f"{name}, {MANY} classes over {FEW}", more, "x", growth)]


def prepare(
    model: WordedModel, image: Tensor, output: tuple[int, int], classes: int, folder: Path
) -> Callable[[], Any]:
    """Put the words into the cache; return a function that reads them as a new process does and labels the image."""
    vocabulary = plain_vocabulary(classes)
    remember(model.clip, vocabulary, "none", folder)

    def call() -> Any:
        model.text_cache = TextCache(folder)
        return label(model, image, output, model.words(vocabulary, templates="none")).cpu()  # waits for the device

    return call
