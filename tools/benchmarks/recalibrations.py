"""What each training-free method costs beside one plain image encoding of open_clip, in the same process."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table

from benchmarks.common import random_clip, ratio
from benchmarks.words import plain_vocabulary, random_words
from ovseg.clip import ViTClip
from ovseg.meta_arch.worded_model import WordedModel
from ovseg.recalibration import Recalibration, build_recalibration, list_recalibrations
from ovseg.system import terminal
from ovseg.system.device import resolve_device
from ovseg.system.files import atomic_write

BASELINE = "open_clip encode_image"
SLOW = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--arch", default="ViT-B-16", help="an architecture of open_clip, random weights (%(default)s)")
    parser.add_argument("--size", type=int, default=448, help="side of the square image in pixels (%(default)s)")
    parser.add_argument("--classes", type=int, default=20, help="texts that features are compared with (%(default)s)")
    parser.add_argument("--methods", default="", help="comma separated; all that there are")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved timed rounds (%(default)s)")
    parser.add_argument("--limit", type=float, default=1.15, help="most that a method of attention alone may cost")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 if a method that changes attention alone costs more than the limit."""
    device = resolve_device(args.device)
    clip = random_clip(args.arch, args.size).to(device)
    names = args.methods.split(",") if args.methods else list_recalibrations()
    methods = {name: build_recalibration(name).eval().to(device) for name in names}
    seconds = measure(clip, methods, args.size, args.classes, args.repeats)
    rows = [
        {
            "method": name,
            "attention_only": method.attention_only,
            "ms": round(1000 * statistics.median(seconds[name]), 1),
            "ratio": round(ratio(seconds[name], seconds[BASELINE]), 3),
        }
        for name, method in methods.items()
    ]
    slow = [row["method"] for row in rows if row["attention_only"] and row["ratio"] > args.limit]
    base = round(1000 * statistics.median(seconds[BASELINE]), 1)
    where = f"{args.arch}, {args.size} px, {device}, {torch.get_num_threads()} threads, {args.repeats} rounds"
    print_table(rows, base, where)
    if args.json:
        report = {"where": where, "classes": args.classes, "baseline_ms": base, "rows": rows}
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    if slow:
        print(f"problem: {', '.join(slow)} cost more than {args.limit} of the baseline")
    return int(bool(slow))


@torch.inference_mode()
def measure(
    clip: ViTClip, methods: dict[str, Recalibration], size: int, classes: int, repeats: int
) -> dict[str, list[float]]:
    """Time all methods and the baseline in turn, so that a slow moment of the machine hits them alike.

    Methods that take many times the baseline are timed once: their ratio says enough.
    """
    image = torch.randn(1, 3, size, size, device=clip.device)
    words = random_words(WordedModel(clip, "none", "none"), plain_vocabulary(classes))
    regions = (torch.arange(size * size, device=clip.device) // (size * size // 8)).view(1, size, size)
    calls: dict[str, Callable[[], Any]] = {BASELINE: lambda: clip.model.encode_image(image)}
    for name, method in methods.items():
        calls[name] = lambda method=method: method.patch_scores(
            method.encode(clip, image, regions if method.uses_regions else None), words
        )
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in track(range(repeats + 1), "rounds", transient=True):
        for name, call in calls.items():
            if turn > 1 and seconds[name][0] > SLOW * seconds[BASELINE][0]:
                continue
            start = time.perf_counter()
            call()
            if clip.device.type != "cpu":
                torch.accelerator.synchronize()
            if turn:  # the first round only warms up
                seconds[name].append(time.perf_counter() - start)
    return seconds


def print_table(rows: list[dict[str, Any]], baseline_ms: float, where: str) -> None:
    """Print the results, cheapest first."""
    view = Table(title=f"{where}; baseline: {BASELINE}, {baseline_ms:.0f} ms", title_justify="left")
    view.add_column("method")
    view.add_column("attention alone")
    view.add_column("ms", justify="right")
    view.add_column("x baseline", justify="right")
    for row in sorted(rows, key=lambda row: row["ratio"]):
        view.add_row(row["method"], "yes" if row["attention_only"] else "", f"{row['ms']:.0f}", f"{row['ratio']:.2f}")
    terminal.console().print(view)
