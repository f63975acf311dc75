"""Our operators beside plain PyTorch: time, memory, and how near they come to what the machine can do."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.common import MIB, PeakMemory, in_fresh_process, positive
from benchmarks.ops_cases import CASES, Call, OpCase
from ovseg.errors import InputError, unknown_name
from ovseg.ops.library import kernel_devices, load_kernels
from ovseg.system import terminal
from ovseg.system.device import resolve_device
from ovseg.system.files import atomic_write, check_writable

OURS, BASELINE = "ours", "baseline"
SLOWER = 0.8  # of the speed-up in the file of --compare: below is a problem
HELP = "build the kernels with `ovseg build-ops`"


@dataclass(frozen=True)
class Task:
    """What a process of its own measures: one call of one case, or the times of both."""

    case: str
    device: torch.device
    threads: int
    repeats: int = 0
    who: str = OURS


@dataclass(frozen=True)
class Machine:
    """What the device can do at most: bytes per second of a copy, operations per second of a float32 matmul."""

    copy: float
    matmul: float

    def least_seconds(self, case: OpCase) -> float:
        """Return the time below which no implementation comes."""
        return max(case.bytes / self.copy, case.flops / self.matmul)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--only", default="", metavar="NAMES", help=f"comma separated, of {names} (all)")
    parser.add_argument("--repeats", type=positive, default=15, help="interleaved timed rounds (%(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... or auto (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="numbers of an earlier run to compare with")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold or an operator became slower."""
    device, console, cases = resolve_device(args.device), terminal.console(), choose(args.only)
    PeakMemory(device)
    before = read_speedups(args.compare) if args.compare else {}
    if args.json:
        check_writable(args.json.parent)
    rows = []
    with console.status("measuring the machine ...") as status:
        machine = measure_machine(device)
        for case in cases:
            status.update(f"{case.name} ...")
            rows.append(measure_case(case, device, args.repeats, machine))
    problems = find_problems(rows, before) if device.type == "cpu" else wrong_results(rows)
    where = f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    console.print(make_table(rows, where, machine, before))
    for row in rows:
        console.print(f"{row['name']}: {row['sizes']}; baseline: {row['baseline']}", soft_wrap=True, highlight=False)
    if args.json:
        report = {"where": where, "machine": asdict(machine), "rows": rows, "problems": problems}
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n")
    for problem in problems:
        console.print(f"FAIL {problem}", style="red")
    return 1 if problems else 0


def choose(names: str) -> list[OpCase]:
    """Return the cases with these names, comma separated; all of them for none.

    Raises:
        UnknownNameError: There is no such case.
    """
    known = {case.name: case for case in CASES}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    for name in wanted:
        if name not in known:
            raise unknown_name("operator", name, known)
    return [known[name] for name in wanted]


def read_speedups(path: Path) -> dict[str, float]:
    """Return the speed-ups in a file that ``--json`` wrote.

    Raises:
        InputError: It is none.
    """
    try:
        return {row["name"]: row["speedup"] for row in json.loads(path.read_text())["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot compare with '{path}' ({error!r}); expected a file that --json wrote") from error


def measure_case(case: OpCase, device: torch.device, repeats: int, machine: Machine) -> dict[str, Any]:
    """Measure one operator in three fresh processes: times, our memory, the baseline's memory."""
    threads = torch.get_num_threads()
    found = in_fresh_process(measure_times, Task(case.name, device, threads, repeats), case.name)
    memory = {
        who: in_fresh_process(measure_memory, Task(case.name, device, threads, who=who), f"{case.name}, {who}")
        for who in (OURS, BASELINE)
    }
    return {
        "name": case.name,
        "sizes": case.sizes,
        "baseline": case.baseline,
        **found,
        "memory": memory[OURS],
        "baseline_memory": memory[BASELINE],
        "bytes": case.bytes,
        "flops": case.flops,
        "share_of_limit": machine.least_seconds(case) / found["seconds"],
    }


@torch.inference_mode()
def measure_times(task: Task) -> dict[str, Any]:
    """Time ours and the baseline in turn, so that a slow moment of the machine hits both alike."""
    case, ours, baseline = _prepare(task)
    result = ours()
    error, kernel = case.error(result, baseline()), task.device.type in kernel_devices(case.op)
    del result
    pairs = [(seconds_of(ours, task.device), seconds_of(baseline, task.device)) for _ in range(task.repeats)]
    return {
        "seconds": statistics.median(own for own, _ in pairs),
        "baseline_seconds": statistics.median(other for _, other in pairs),
        "speedup": statistics.median(other / own for own, other in pairs),
        "error": error,
        "kernel": kernel,
    }


@torch.inference_mode()
def measure_memory(task: Task) -> int:
    """Return the bytes that the first call of ours or of the baseline takes, its result included."""
    _, ours, baseline = _prepare(task)
    small = torch.ones(64, 64, device=task.device)
    small @ small  # libraries and threads take memory for themselves at their first call
    with PeakMemory(task.device) as memory:
        result = ours() if task.who == OURS else baseline()
    del result
    return memory.extra


def measure_machine(device: torch.device) -> Machine:
    """Measure the bandwidth of a copy, reads and writes counted, and the rate of a matrix product."""
    source, side = torch.ones(2**26, device=device), 2048
    target, square = torch.empty_like(source), torch.ones(side, side, device=device)
    copy = min(seconds_of(lambda: target.copy_(source), device) for _ in range(5))
    product = min(seconds_of(lambda: square @ square, device) for _ in range(5))
    return Machine(2 * source.nbytes / copy, 2 * side**3 / product)


def seconds_of(call: Call, device: torch.device) -> float:
    """Time one call, until the device is done."""
    start = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def _prepare(task: Task) -> tuple[OpCase, Call, Call]:
    torch.set_num_threads(task.threads)
    load_kernels()
    case = choose(task.case)[0]
    return case, *case.prepare(task.device)


def find_problems(rows: list[dict[str, Any]], before: dict[str, float]) -> list[str]:
    """Say which limits do not hold, and what became slower than it was ``before`` (speed-ups by name)."""
    problems = wrong_results(rows)
    for row, case in ((row, choose(row["name"])[0]) for row in rows):
        hint = "" if row["kernel"] else f"; it ran in plain PyTorch: {HELP}"
        if row["speedup"] < case.speedup:
            problems.append(
                f"{case.name}: {row['speedup']:.2f} times the baseline's speed, limit {case.speedup:g}{hint}"
            )
        share = row["memory"] / max(row["baseline_memory"], 1)
        if share > case.memory:
            problems.append(f"{case.name}: {share:.0%} of the baseline's memory, limit {case.memory:.0%}{hint}")
        if row["speedup"] < SLOWER * before.get(case.name, 0):
            problems.append(f"{case.name}: speed-up {row['speedup']:.2f}, it was {before[case.name]:.2f}")
    return problems


def wrong_results(rows: list[dict[str, Any]]) -> list[str]:
    """Say which results differ from the baseline's."""
    pairs = [(row, choose(row["name"])[0]) for row in rows]
    return [
        f"{case.name}: differs from the baseline by {row['error']:.1e}, limit {case.tolerance:.0e}"
        for row, case in pairs
        if not row["error"] <= case.tolerance
    ]


def make_table(rows: list[dict[str, Any]], where: str, machine: Machine, before: dict[str, float]) -> Table:
    """Lay out the results, with the earlier speed-ups where there are some."""
    title = f"ops: {where}; copy {machine.copy / 1e9:.0f} GB/s, matmul {machine.matmul / 1e9:.0f} GFLOP/s"
    table = Table(title=title, title_justify="left")
    headers = ("op", "ms", "baseline", "x faster", "MiB", "baseline", "of limit", "error", "kernel")
    for header in (*headers, *(["x before"] if before else [])):
        table.add_column(header, justify="left" if header in ("op", "kernel") else "right", no_wrap=header == "op")
    for row in rows:
        cells = [row["name"], *(f"{1000 * row[key]:.1f}" for key in ("seconds", "baseline_seconds"))]
        cells += [f"{row['speedup']:.2f}", *(f"{row[key] / MIB:.0f}" for key in ("memory", "baseline_memory"))]
        cells += [f"{row['share_of_limit']:.0%}", f"{row['error']:.1e}", "yes" if row["kernel"] else "no"]
        earlier = [f"{before[row['name']]:.2f}" if row["name"] in before else "-"] if before else []
        table.add_row(*cells, *earlier)
    return table
