"""Measure speed and memory of parts of ovseg beside plain PyTorch.

Examples:
    python tools/benchmark.py postprocess
    python tools/benchmark.py postprocess --classes 20,1000 --size 3840x2160 --json postprocess.json
    python tools/benchmark.py recalibrations --arch ViT-B-16 --size 448
    python tools/benchmark.py evaluation --classes 847
    python tools/benchmark.py eval-memory --json eval-memory.json
    python tools/benchmark.py models --repeats 5 --modes fp32,bf16
    python tools/benchmark.py stages --models san
    python tools/benchmark.py words --json words.json
    python tools/benchmark.py folder --images 100 --compare folder.json
    python tools/benchmark.py folder --batch-size 4
    python tools/benchmark.py label --images 2000
    python tools/benchmark.py ops --only mask_pool --json ops.json
    python tools/benchmark.py cost-maps --whole
    python tools/benchmark.py model-costs --json benchmarks/model-costs.json
    python tools/benchmark.py sam3 --phrases 20,150
    python tools/benchmark.py sam3-prefilter --data data/scenes/val
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import benchmarks.cost_maps
import benchmarks.eval_memory
import benchmarks.evaluation
import benchmarks.folder
import benchmarks.label
import benchmarks.limits
import benchmarks.model_costs
import benchmarks.models
import benchmarks.new_words
import benchmarks.ops
import benchmarks.recalibrations
import benchmarks.sam3
import benchmarks.sam3_prefilter
import benchmarks.startup
import benchmarks.training_free
import benchmarks.vocabulary
import torch
from benchmarks.common import MIB, PeakMemory, in_fresh_process, positive
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from ovseg.errors import OvsegError
from ovseg.labelling.scores import ScoreRule, segment_map
from ovseg.ops.bilinear import bilinear_matrix
from ovseg.ops.library import kernel_devices, load_kernels
from ovseg.system import terminal
from ovseg.system.device import resolve_device
from ovseg.system.files import atomic_write, check_writable

OURS, BASELINE = "segment_map", "F.interpolate + argmax"
WITH_FIGURES: dict[str, Any] = {
    "training-free": benchmarks.training_free,
    "cost-maps": benchmarks.cost_maps,
    "vocabulary": benchmarks.vocabulary,
    "words": benchmarks.new_words,
    "model-costs": benchmarks.model_costs,
    "startup": benchmarks.startup,
    "folder": benchmarks.folder,
    "label": benchmarks.label,
    "eval-memory": benchmarks.eval_memory,
    "sam3": benchmarks.sam3,
    "sam3-prefilter": benchmarks.sam3_prefilter,
}
MIN_AGREEMENT = 0.9999  # the rest is ties within rounding


@dataclass(frozen=True)
class Case:
    """One measurement: what is run on how many classes, on which grid of patches (h, w) and output size (H, W)."""

    method: str
    classes: int
    grid: tuple[int, int]
    size: tuple[int, int]
    repeats: int
    device: torch.device

    @property
    def output_bytes(self) -> int:
        """Bytes of all float32 maps at the output size: what the baseline holds at once."""
        return 4 * self.classes * self.size[0] * self.size[1]


@dataclass(frozen=True)
class Measurement:
    """What one case takes.

    Attributes:
        seconds: Median of the calls after the first.
        extra_mib: Peak memory of the first call above the level before it.
        agreement: Share of the pixels with the baseline's label; None for the baseline itself.
    """

    seconds: float
    extra_mib: float
    agreement: float | None


def baseline(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (H, W) the usual way: all maps at the output size, then the argmax. It gives no scores."""
    return F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(0)


def reference_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (H, W) as `baseline` gives them, eight classes at a time, so that they fit in memory."""
    top = torch.full(size, -torch.inf, device=logits.device)
    labels = torch.zeros(size, dtype=torch.long, device=logits.device)
    for start in range(0, len(logits), 8):
        maps = F.interpolate(logits[None, start : start + 8], size, mode="bilinear", align_corners=False)[0]
        best, index = maps.max(0)
        better = best > top
        labels[better], top[better] = index[better] + start, best[better]
    return labels


def measure(case: Case) -> Measurement:
    """Run one case; `run_case` does it in a process of its own."""
    generator = torch.Generator().manual_seed(case.classes)
    logits = torch.randn(case.classes, *case.grid, generator=generator).to(case.device)
    call = _call(case, logits)
    with PeakMemory(case.device) as memory:
        labels = call()
    seconds = []
    for _ in range(case.repeats):
        start = time.perf_counter()
        call()[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    agreement = None
    if case.method != BASELINE:
        agreement = (labels == reference_labels(logits, case.size)).float().mean().item()
    return Measurement(statistics.median(seconds), memory.extra / MIB, agreement)


def _call(case: Case, logits: Tensor) -> Callable[[], Tensor]:
    if case.method == BASELINE:
        return lambda: baseline(logits, case.size)
    rows, columns = (
        bilinear_matrix(n, out).float().to(case.device) for n, out in zip(case.grid, case.size, strict=True)
    )
    classes, rule = torch.arange(case.classes), ScoreRule(logit_scale=1.0)
    return lambda: segment_map(logits, rows, columns, classes, rule)[0]


def fits(case: Case) -> bool:
    """Whether the baseline's maps, with a quarter to spare, fit in the free memory of the device."""
    if case.device.type == "cpu":
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    else:
        free = getattr(torch, case.device.type).mem_get_info(case.device)[0]
    return 1.25 * case.output_bytes < free


def run_case(case: Case) -> Measurement | None:
    """Run `measure` in a fresh process; None where the baseline does not fit in memory.

    Raises:
        EnvironmentProblem: The process was ended from outside, most likely for want of memory.
    """
    if case.method == BASELINE and not fits(case):
        return None
    return in_fresh_process(measure, case, f"{case.method} with {case.classes} classes")


def postprocess(args: argparse.Namespace) -> int:
    """Benchmark `segment_map`; the exit status is 1 when it needs too much memory or its labels are wrong."""
    device, console = resolve_device(args.device), terminal.console()
    PeakMemory(device)
    if args.json:
        check_writable(args.json.parent)
    table = Table(title=_title(args, device))
    for header in ("classes", "method", "seconds", "extra MiB", "agreement"):
        table.add_column(header, justify="left" if header == "method" else "right")
    rows: list[dict[str, Any]] = []
    with console.status("measuring ...") as status:
        for classes in args.classes:
            for method in (OURS, BASELINE):
                status.update(f"{method}, {classes} classes ...")
                found = run_case(Case(method, classes, args.grid, args.size, args.repeats, device))
                rows.append({"classes": classes, "method": method, **(vars(found) if found else {"fits": False})})
                table.add_row(f"{classes:,}", method, *_cells(found))
    console.print(table)
    problems = find_problems(rows, args.limit_mb)
    if args.json:
        settings = {"size": args.size, "grid": args.grid, "device": str(device), "threads": torch.get_num_threads()}
        settings["compiled"] = _compiled(device)
        report = {**settings, "torch": torch.__version__, "limit_mb": args.limit_mb, "rows": rows, "problems": problems}
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    for problem in problems:
        console.print(f"FAIL {problem}", style="red")
    return 1 if problems else 0


def find_problems(rows: list[dict[str, Any]], limit_mb: float) -> list[str]:
    """Say what is wrong with the rows of `segment_map`: too much memory, or labels that differ from the baseline's."""
    problems = []
    for row in (row for row in rows if row["method"] == OURS):
        if row["extra_mib"] * MIB > limit_mb * 1e6:
            problems.append(f"{row['classes']} classes: {row['extra_mib']:.0f} MiB extra; limit {limit_mb:g} MB")
        if row["agreement"] < MIN_AGREEMENT:
            problems.append(f"{row['classes']} classes: labels agree on {row['agreement']:.4%} of the pixels only")
    return problems


def _title(args: argparse.Namespace, device: torch.device) -> str:
    (height, width), (h, w) = args.size, args.grid
    how = "compiled operators" if _compiled(device) else "operators in plain PyTorch"
    where = f"{device}, {torch.get_num_threads()} threads, {how}"
    return f"postprocess: {w}x{h} patches to {width}x{height} pixels, {where}"


def _compiled(device: torch.device) -> bool:
    """Whether `segment_map` takes a kernel on this device; ``OVSEG_OPS=torch`` leaves it alone."""
    load_kernels()
    return device.type in kernel_devices("class_argmax")


def _cells(found: Measurement | None) -> tuple[str, ...]:
    if found is None:
        return "-", "does not fit", "-"
    agreement = "-" if found.agreement is None else f"{found.agreement:.3%}"
    return f"{found.seconds:.3f}", f"{found.extra_mib:.0f}", agreement


def _sides(text: str) -> tuple[int, int]:
    """Read WIDTHxHEIGHT as (height, width)."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is no size; expected WIDTHxHEIGHT, for example 1920x1080")
    return int(parts[1]), int(parts[0])


def _counts(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' are no class counts; expected for example 1,20,150,1000")
    return [int(part) for part in parts]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    post = commands.add_parser("postprocess", help="a label for every pixel from patch scores: seconds and memory")
    post.add_argument("--classes", type=_counts, default=[1, 20, 150, 1000], help="comma separated (1,20,150,1000)")
    post.add_argument("--size", type=_sides, default=(1080, 1920), help="output WIDTHxHEIGHT in pixels (1920x1080)")
    post.add_argument("--grid", type=_sides, default=(68, 120), help="WIDTHxHEIGHT in patches (120x68)")
    post.add_argument("--limit-mb", type=float, default=300, help="most extra memory of segment_map (%(default)s)")
    post.add_argument("--repeats", type=positive, default=3, help="timed calls after the first (%(default)s)")
    post.add_argument("--device", default="auto")
    post.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    post.set_defaults(run=postprocess)
    methods = commands.add_parser("recalibrations", help="training-free methods beside a plain image encoding")
    benchmarks.recalibrations.add_arguments(methods)
    methods.set_defaults(run=benchmarks.recalibrations.run)
    counting = commands.add_parser("evaluation", help="evaluators beside Detectron2's and COCO's definition of PQ")
    benchmarks.evaluation.add_arguments(counting)
    counting.set_defaults(run=benchmarks.evaluation.run)
    limits = commands.add_parser("models", help="models that propose masks, in units of a plain image encoding")
    benchmarks.limits.add_arguments(limits)
    limits.set_defaults(run=benchmarks.limits.run)
    stages = commands.add_parser("stages", help="models that propose masks, stage by stage, with random weights")
    benchmarks.models.add_arguments(stages)
    stages.set_defaults(run=benchmarks.models.run)
    operators = commands.add_parser("ops", help="our operators: time, memory, and the limits of the machine")
    benchmarks.ops.add_arguments(operators)
    operators.set_defaults(run=benchmarks.ops.run)
    for name, module in WITH_FIGURES.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").partition("\n")[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run a benchmark; the exit status is 0 when its limits hold, 1 when not, 2 when it cannot run."""
    args = parse_args(argv)
    try:
        status: int = args.run(args)
    except (OvsegError, KeyboardInterrupt) as error:
        print(f"error: {error}" if isinstance(error, OvsegError) else "interrupted", file=sys.stderr)
        return 2 if isinstance(error, OvsegError) else 130
    return status


if __name__ == "__main__":
    sys.exit(main())
