"""What the stages of models that propose masks cost, with random weights of full size, on the CPU.

A model encodes one random image and answers what it shows, by words that are random unit vectors: the text tower runs
once for a vocabulary, never for an image. Every model runs in fresh processes: one times its stages beside a plain
image encoding of open_clip, one measures their memory, and two compare the memory with few and with many classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import (
    CPU,
    MIB,
    REST,
    UNIT,
    UNIT_ARCH,
    UNIT_SIZE,
    WHOLE,
    Cost,
    PeakMemory,
    in_fresh_process,
    positive,
    ratio,
    unit_clock,
)
from benchmarks.words import random_words, vocabulary_with_synonyms
from ovseg.config import config_root
from ovseg.contract import CLASS_SCORES, LABELS
from ovseg.system import terminal
from ovseg.system.files import atomic_write, check_writable

SHIPPED = {"san": "san/san-vit-b-16.yaml", "fcclip": "fcclip/fcclip-convnext-l.yaml"}
WARM_UP = 64  # pixels
KEEP_NOTHING = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}  # for glibc: give blocks from 64 KiB back at once


@dataclass(frozen=True)
class Case:
    """One measurement in a process of its own.

    Attributes:
        config: Path of a YAML config.
        classes: Length of the class list.
        size: Side of the square image in pixels.
        output: Height and width of the results in pixels.
        class_scores: Whether to measure the stages behind the scores of every class, too.
        repeats: Timed rounds.
    """

    config: str
    classes: int
    size: int
    output: tuple[int, int]
    class_scores: bool = True
    repeats: int = 1


@dataclass(frozen=True)
class Timing:
    """Costs of each stage, of the rest and of the whole in each round, and the seconds of a plain image encoding."""

    rounds: list[dict[str, Cost]]
    baseline: list[float]


def import_stages() -> ModuleType:
    """Import the models, which takes seconds, only when they are wanted; Detectron2 scripts functions, which warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import benchmarks.stages
    return benchmarks.stages


def prepare(case: Case) -> Callable[..., dict[str, Cost]]:
    """Build a model, run it on a small image, and return a function that runs it on the image of a case."""
    tools = import_stages()
    model = tools.build(case.config)
    words = random_words(model, vocabulary_with_synonyms(case.classes))
    stages = tools.kind_of(case.config).stages(model)
    generator = torch.Generator().manual_seed(0)
    small, image = (torch.randint(0, 256, (3, n, n), generator=generator).byte() for n in (WARM_UP, case.size))
    tools.call(model, small, (WARM_UP, WARM_UP), words, stages)

    def run(memory: bool = False) -> dict[str, Cost]:
        costs: dict[str, Cost] = tools.call(model, image, case.output, words, stages, memory)
        if case.class_scores:
            more = tools.call(model, image, case.output, words, stages, memory, LABELS | {CLASS_SCORES})
            costs.update({name: cost for name, cost in more.items() if cost.extra})
        return costs

    return run


def measure_time(case: Case) -> Timing:
    """Time a model and, in turn, a plain image encoding, so that a slow moment of the machine hits them alike."""
    run, encode = prepare(case), unit_clock()
    run()  # the first call prepares what later ones use
    rounds, baseline = [], []
    for _ in range(case.repeats):
        baseline.append(encode())
        rounds.append(run())
    return Timing(rounds, baseline)


def measure_memory(case: Case) -> dict[str, Cost]:
    """Measure the memory of a model, in a process that gives freed memory back at once (see `weigh`)."""
    return prepare(case)(memory=True)


def weigh(case: Case, what: str) -> dict[str, Cost]:
    """Run `measure_memory` in a fresh process that keeps no freed memory, so that its size is that of what is in use.

    Else a stage gets again, unseen, what an earlier one has freed, or not, as it happens, and the whole differs by half
    from run to run.
    """
    return in_fresh_process(measure_memory, case, what, KEEP_NOTHING)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--models", default=",".join(SHIPPED), help="comma separated: these, or configs (%(default)s)")
    parser.add_argument("--classes", type=positive, default=150, help="length of the class list (%(default)s)")
    parser.add_argument(
        "--many-classes", type=positive, default=847, help="a list to compare memory with (%(default)s)"
    )
    parser.add_argument("--size", type=positive, default=640, help="side of the square image in pixels (%(default)s)")
    parser.add_argument(
        "--output-size",
        type=_size,
        default=(1080, 1920),
        metavar="HxW",
        help="height and width in pixels of the results where memory is compared (1080x1920)",
    )
    parser.add_argument("--limit-mb", type=float, default=60, help="most that many classes may add (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=5, help="timed rounds after the first (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 if a stage runs twice or memory grows with the number of classes."""
    PeakMemory(CPU)
    if args.json:
        check_writable(args.json.parent)
    console = terminal.console()
    shipped = {name: str(config_root() / path) for name, path in SHIPPED.items()}
    configs = [(Path(name).stem, shipped.get(name, name)) for name in args.models.split(",")]
    for _, config in configs:
        import_stages().kind_of(config)  # mistakes come before the work
    models, problems = [], []
    for name, config in configs:
        with console.status(f"{name} ...") as status:
            found = measure(name, config, args, status.update)
        print_model(found, args, console)
        models.append(found)
        problems += find_problems(found, args.limit_mb)
    if args.json:
        keys = ("classes", "many_classes", "size", "output_size", "repeats", "limit_mb")
        settings = {**{key: getattr(args, key) for key in keys}, "threads": torch.get_num_threads()}
        report = {**settings, "torch": torch.__version__, "models": models, "problems": problems}
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    for problem in problems:
        console.print(f"FAIL {problem}", style="red")
    return int(bool(problems))


def measure(name: str, config: str, args: argparse.Namespace, tell: Callable[[str], Any]) -> dict[str, Any]:
    """Measure a model in processes of its own, telling what is under way; returns what the report has of it."""
    case = Case(config, args.classes, args.size, (args.size, args.size), repeats=args.repeats)
    tell(f"{name}: seconds ...")
    timing = in_fresh_process(measure_time, case, name)
    tell(f"{name}: memory ...")
    memory = weigh(case, name)
    peaks = []
    for classes in (args.classes, args.many_classes):
        tell(f"{name}: memory with {classes} classes ...")
        costs = weigh(replace(case, classes=classes, output=args.output_size, class_scores=False), name)
        peaks.append({stage: cost.bytes for stage, cost in costs.items()})
    return {
        "model": name,
        "config": Path(config).name,
        "baseline_seconds": statistics.median(timing.baseline),
        "stages": rows_of(timing, memory),
        "peak_mib": [peak[WHOLE] / MIB for peak in peaks],
        "growth_mb": {stage: (peaks[1][stage] - peaks[0][stage]) / 1e6 for stage in peaks[0] if stage != REST},
    }


def rows_of(timing: Timing, memory: dict[str, Cost]) -> list[dict[str, Any]]:
    """Make the rows of a table: those of results, the rest and the whole, and last those of class scores."""
    whole = statistics.median(costs[WHOLE].seconds for costs in timing.rounds)
    rows = []
    for name, cost in sorted(memory.items(), key=lambda item: item[1].extra):
        seconds = [costs[name].seconds for costs in timing.rounds]
        rows.append(
            {
                "stage": name,
                "calls": max(costs[name].calls for costs in (memory, *timing.rounds)),
                "at_most": cost.at_most,
                "seconds": statistics.median(seconds),
                "encodings": ratio(seconds, timing.baseline),
                "share": None if cost.extra else statistics.median(seconds) / whole,
                "extra_mib": None if name == REST else cost.bytes / MIB,
            }
        )
    return rows


def find_problems(found: dict[str, Any], limit_mb: float) -> list[str]:
    """Say which stages ran more often than they may, and where memory grows with the number of classes."""
    problems = [
        f"{found['model']}: {row['stage']} ran {row['calls']} times on one image; expected at most {row['at_most']}"
        for row in found["stages"]
        if row["calls"] > row["at_most"]
    ]
    stage, growth = max(found["growth_mb"].items(), key=lambda item: item[1])
    if growth > limit_mb:
        problems.append(f"{found['model']}: many classes add {growth:.0f} MB to {stage}; limit {limit_mb:g} MB")
    return problems


def print_model(found: dict[str, Any], args: argparse.Namespace, console: Console) -> None:
    """Print the table of a model, and below it how its memory grows."""
    title = (
        f"{found['model']}: {args.size}x{args.size} pixels, {args.classes} classes, "
        f"{torch.get_num_threads()} threads, median of {args.repeats}; one {UNIT} of {UNIT_ARCH} at "
        f"{UNIT_SIZE} px takes {found['baseline_seconds']:.3f} s"
    )
    caption = "* for who wants the scores of every class, no part of the whole"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("stage", no_wrap=True)
    for header in ("calls", "seconds", "encodings", "share", "peak MiB"):
        table.add_column(header, justify="right")
    for row in found["stages"]:
        share = "*" if row["share"] is None else f"{row['share']:.1%}"
        memory = "" if row["extra_mib"] is None else f"{row['extra_mib']:.0f}"
        cells = (str(row["calls"]), f"{row['seconds']:.3f}", f"{row['encodings']:.2f}", share, memory)
        table.add_row(row["stage"], *cells, end_section=row["stage"] == WHOLE)
    console.print(table)
    (few, many), (height, width) = found["peak_mib"], args.output_size
    stage, growth = max(found["growth_mb"].items(), key=lambda item: item[1])
    console.print(
        f"{found['model']}: results of {width} x {height} pixels take {few:.0f} MiB with {args.classes} classes, "
        f"{many:.0f} MiB with {args.many_classes} ({found['growth_mb'][WHOLE]:+.1f} MB); "
        f"the stage that grows most is {stage} ({growth:+.1f} MB)"
    )


def _size(text: str) -> tuple[int, int]:
    """Read HEIGHTxWIDTH."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; expected HEIGHTxWIDTH, for example 1080x1920")
    return int(parts[0]), int(parts[1])
