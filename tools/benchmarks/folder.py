"""`ovseg segment` on a folder of photographs: images per second, and how busy it keeps the cores.

With ``--batch-size`` instead what it brings to encode several photographs of one size together.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import MIB, positive, ratio
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from ovseg.errors import EnvironmentProblem
from ovseg.zoo import load

ROOT = Path(__file__).resolve().parents[2]
BUSY = 90  # percent of all cores
CLASSES = "sea, sand, sky, tree, house"
PICTURES, ROUNDS = 8, 5  # equal photographs, and timed rounds, of the comparison of batches


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--images", type=positive, default=100, help="photographs (%(default)s)")
    parser.add_argument("--side", type=positive, default=1280, help="their longer side in pixels (%(default)s)")
    parser.add_argument("--model", default="mini", help="a name of `ovseg models` (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (%(default)s)")
    parser.add_argument(
        "--batch-size", type=int, choices=(2, 4, 8), help="compare so many in a pass with one, in this process"
    )
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold.

    A run on one image is taken away from that on all: what remains is the work on images alone.
    """
    before = check_report_arguments(args)
    if args.batch_size:
        title = f"{PICTURES} equal photographs of {args.side}x{args.side * 3 // 4}, {args.model}, {args.device}"
        return report(title, compare_batches(args), args, before)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as work:
        one, many = Path(work) / "one", Path(work) / "many"
        make_photos(one, 1, args.side)
        make_photos(many, args.images + 1, args.side)
        measure(args, one)  # embeds the words
        wall, busy, least = measure(args, one)
        total, work_seconds, peak = measure(args, many)
    share = 100 * (work_seconds - busy) / (cores * (total - wall))
    limit = BUSY if args.device == "cpu" else None
    figures = [
        Figure("images per second", args.images / (total - wall), "1/s"),
        Figure("cores busy", share, "%", limit, at_least=True),
        Figure("memory beyond that for one image", (peak - least) / MIB, "MiB"),
        Figure("from start to end", total, "s"),
    ]
    size = f"{args.side}x{args.side * 3 // 4}"
    return report(f"folder of {args.images} photographs of {size}, {args.model}, {cores} cores", figures, args, before)


def compare_batches(args: argparse.Namespace) -> list[Figure]:
    """Time photographs in memory one at a time and several in a pass, in turn; the first round only warms up."""
    segmenter = load(args.model, args.device)
    pictures = [make_photo(0, (args.side * 3 // 4, args.side))] * PICTURES
    words = segmenter.words(CLASSES)
    seconds: dict[int, list[float]] = {1: [], args.batch_size: []}
    for turn in range(ROUNDS + 1):
        for size, rounds in seconds.items():
            segmenter.batch_size = size
            start = time.perf_counter()
            for _ in segmenter.stream(pictures, words):
                pass
            if turn:
                rounds.append(time.perf_counter() - start)
    rates = [
        Figure(f"images per second, batch {size}", PICTURES / statistics.median(rounds), "1/s")
        for size, rounds in seconds.items()
    ]
    return [*rates, Figure(f"batch {args.batch_size} over batch 1", ratio(*seconds.values()), "x")]


def make_photos(folder: Path, count: int, side: int) -> None:
    """Write photographs of 4 to 3 as JPEG."""
    folder.mkdir()
    for index in range(count):
        make_photo(index, (side * 3 // 4, side)).save(folder / f"{index:04d}.jpg", quality=90)


def make_photo(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a photograph of a height and width in pixels, made up of shapes of all sizes with some noise."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6 + number % 5, 8, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
    return Image.fromarray(np.clip(smooth + rng.integers(-9, 10, smooth.shape, np.int16), 0, 255).astype(np.uint8))


def measure(args: argparse.Namespace, folder: Path) -> tuple[float, float, int]:
    """Segment a folder; return seconds, seconds of the cores (user and system), and the peak of memory in bytes.

    Raises:
        EnvironmentProblem: It failed, or this system does not tell what a process used.
    """
    if not hasattr(os, "wait4"):
        raise EnvironmentProblem("what a process used is not known on this system; run it on Linux or macOS")
    command = [sys.executable, "-m", "ovseg.cli", "segment", folder, "--output", f"{folder}-out"]
    command += ["--classes", CLASSES, "--model", args.model, "--device", args.device]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": paths})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise EnvironmentProblem(f"`ovseg segment` ended with {process.returncode}; run `ovseg doctor`")
    unit = 1 if sys.platform == "darwin" else 1024
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit
