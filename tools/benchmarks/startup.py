"""How long a command takes to start: the help, and the first result of a model whose words are cached."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.common import positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from ovseg.errors import EnvironmentProblem

ROOT = Path(__file__).resolve().parents[2]
HELP_SECONDS, RESULT_SECONDS = 0.3, 4.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--model", default="mini", help="a name of `ovseg models` (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=5, help="runs after the first (%(default)s)")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    before = check_report_arguments(args)
    with tempfile.TemporaryDirectory() as work:
        photo = Path(work) / "photo.png"
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)).save(photo)
        words = ["segment", photo, "--classes", "sea, sand, sky", "--model", args.model, "--output", f"{work}/out"]
        found = Path(work) / "out" / "photo.json"
        figures = [
            Figure("ovseg --help", median(lambda: seconds(["--help"]), args.repeats), "s", HELP_SECONDS),
            Figure(
                f"first result of {args.model}",
                median(lambda: seconds(words, found), args.repeats),
                "s",
                RESULT_SECONDS,
            ),
            Figure(f"all of `ovseg segment` by {args.model}", median(lambda: seconds(words), args.repeats), "s"),
        ]
    return report("start-up, files in the memory of the system", figures, args, before)


def median(measure: Callable[[], float], repeats: int) -> float:
    """Return the median of some runs after one that does not count."""
    measure()
    return statistics.median(measure() for _ in range(repeats))


def seconds(arguments: list[str | Path], result: Path | None = None) -> float:
    """Return the time from the start of a command until a result is there, or until it has ended.

    Raises:
        EnvironmentProblem: It failed.
    """
    if result is not None:
        result.unlink(missing_ok=True)
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "ovseg.cli", *map(str, arguments)]
    start, done = time.perf_counter(), None
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        while result is not None and done is None and process.poll() is None:
            done = time.perf_counter() - start if result.exists() else time.sleep(0.01)
        _, message = process.communicate()
    whole = time.perf_counter() - start
    if process.returncode:
        raise EnvironmentProblem(f"`ovseg {arguments[0]}` failed ({message.strip()}); run `ovseg doctor`")
    return whole if done is None else done
