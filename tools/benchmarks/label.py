"""`ovseg label` on many photographs: images per second with one and two processes and on Ray, cores, memory.

Of each way a short job is taken away from a long one: what remains is the work on images alone, without the start.
Memory is that of one process on the whole folder beyond that on a part of it: nothing may grow with the images.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import MIB, positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.folder import CLASSES, ROOT, make_photos
from ovseg.errors import EnvironmentProblem

GROWTH = 64
"""MiB that a job may hold more on the whole folder than on a tenth of it."""
PART = 10
WAYS = {"1 process": [], "2 processes": ["--processes", "2"], "Ray, 2 actors": ["--ray", "--processes", "2"]}


@dataclass(frozen=True)
class Job:
    """What a call took: seconds from start to end, seconds of its work, those of the cores, peak of memory in bytes."""

    wall: float
    work: float
    cores: float
    peak: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--images", type=positive, default=2000, help="photographs (%(default)s)")
    parser.add_argument("--side", type=positive, default=160, help="their longer side in pixels (%(default)s)")
    parser.add_argument("--model", default="mini", help="a name of `ovseg models` (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (%(default)s)")
    parser.add_argument("--formats", default="labels,coco-semantic", help="(%(default)s)")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where memory grows."""
    before = check_report_arguments(args)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    figures = []
    few = max(1, args.images // PART)
    with tempfile.TemporaryDirectory() as work:
        photos = Path(work) / "photos"
        make_photos(photos, args.images, args.side)
        label(args, photos, Path(work) / "warm", ["--limit", "1"])  # embeds the words
        for way, options in WAYS.items():
            if "Ray" in way and importlib.util.find_spec("ray") is None:
                print(f"note: {way}: not measured, the extra cluster is not installed", file=sys.stderr)
                continue
            out = Path(work) / way.replace(" ", "-")
            short = label(args, photos, Path(f"{out}-few"), [*options, "--limit", str(few)])
            whole = label(args, photos, out, options)
            seconds = whole.work - short.work
            figures.append(Figure(f"images per second, {way}", (args.images - few) / seconds, "1/s"))
            if "Ray" not in way:  # whose workers are no children of the call
                share = 100 * (whole.cores - short.cores) / (cores * (whole.wall - short.wall))
                figures.append(Figure(f"cores busy, {way}", share, "%"))
            if way == "1 process":
                growth = (whole.peak - short.peak) / MIB
                figures.append(Figure(f"memory beyond that for {few} images", growth, "MiB", GROWTH))
    size = f"{args.side}x{args.side * 3 // 4}"
    return report(f"{args.images} photographs of {size} labelled, {args.model}, {cores} cores", figures, args, before)


def label(args: argparse.Namespace, photos: Path, out: Path, options: list[str]) -> Job:
    """Label a folder in a process of its own.

    Raises:
        EnvironmentProblem: It failed, or this system does not tell what a process used.
    """
    if not hasattr(os, "wait4"):
        raise EnvironmentProblem("what a process used is not known on this system; run it on Linux or macOS")
    command = [sys.executable, "-m", "ovseg.cli", "label", photos, "--output", out, "--classes", CLASSES]
    command += ["--model", args.model, "--device", args.device, "--formats", args.formats, "--json", *options]
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    told = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise EnvironmentProblem(f"`ovseg label` ended with {process.returncode}; run `ovseg doctor`")
    unit = 1 if sys.platform == "darwin" else 1024
    work = float(json.loads(told)["seconds"])
    return Job(wall, work, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)
