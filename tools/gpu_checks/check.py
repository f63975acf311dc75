"""Check ovseg on a machine with a GPU, without a network, in less than ten minutes.

Brings missing packages from a folder of wheels, compiles the operators, checks them, golden cases and every model on
the device, and measures. One JSON and one Markdown file hold what was found. On a CPU it is a dry run of small sizes,
which shows that the tool itself works.

Examples:
    tools/gpu_check.sh --download wheels             (with a network, the same Python: fills the folder)
    tools/gpu_check.sh --wheels wheels               (on the machine with the GPU)
    tools/gpu_check.sh --parts operators,goldens
    tools/gpu_check.sh --device cpu
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu_checks import packages

ROOT = packages.ROOT
TOOLS = ROOT / "tools"
OWN = ("operators", "goldens", "models", "speed")  # of `gpu_checks.part`
PARTS = ("packages", "build-ops", *OWN, "benchmark ops", "benchmark vocabulary", "benchmark label")


@dataclass
class Step:
    """What came of a part.

    Attributes:
        name: Of `PARTS`.
        status: ``ok``, ``FAIL`` or ``skipped``.
        remark: One line.
        seconds: How long it took.
        rows: What was found, as `gpu_checks.rows.to_dict` writes it.
    """

    name: str
    status: str = "ok"
    remark: str = ""
    seconds: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)


def command_of(part: str, args: argparse.Namespace, report: Path) -> list[str]:
    """Return the command of a part that runs in a process of its own and writes `report`."""
    python = [sys.executable, "-W", "ignore::FutureWarning"]
    device = ["--device", args.device]
    if part in OWN:
        return [
            *python,
            "-m",
            "gpu_checks.part",
            part,
            *device,
            *(["--small"] if args.small else []),
            "--json",
            str(report),
        ]
    if part == "build-ops":
        return [*python, "-m", "ovseg.cli", "build-ops", "--cuda" if args.device.startswith("cuda") else "--no-cuda"]
    few = {
        "ops": ["--only", "mask_pool", "--repeats", "1"],
        "vocabulary": ["--repeats", "1"],
        "label": ["--images", "40", "--formats", "labels"],
    }
    many = {"ops": [], "vocabulary": [], "label": ["--images", "500"]}
    name = part.removeprefix("benchmark ")
    options = (few if args.small else many)[name]
    return [*python, str(TOOLS / "benchmark.py"), name, *device, *options, "--json", str(report)]


def run_command(part: str, args: argparse.Namespace, limit: float) -> Step:
    """Run a part in a process of its own; what it printed goes into a log beside the report."""
    report, log = (args.output / f"{part.replace(' ', '-')}.{end}" for end in ("json", "log"))
    report.unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(ROOT), str(TOOLS), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, "OVSEG_CACHE": str(args.output / "cache"), "OVSEG_OFFLINE": "1"}
    try:
        with log.open("w") as out:
            command = command_of(part, args, report)
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=limit, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        return Step(part, "FAIL", f"not done after {limit:.0f} s; see {log}")
    found = json.loads(report.read_text()) if report.is_file() else None
    rows = found if isinstance(found, list) else rows_of_benchmark(found or {})
    bad = [row["name"] for row in rows if row["status"] == "FAIL"]
    told = log.read_text(errors="replace").strip().splitlines() or ["it printed nothing"]
    if bad:
        return Step(part, "FAIL", f"{len(bad)} of {len(rows)}: {', '.join(bad[:4])}", rows=rows)
    if status and not (part.startswith("benchmark") and found):  # speeds have limits of another machine
        return Step(part, "FAIL", f"ended with {status}: {told[-1]}", rows=rows)
    skipped = sum(row["status"] == "skipped" for row in rows)
    count = f"{len(rows) - skipped} of {len(rows)}" if skipped else str(len(rows))
    return Step(part, remark=f"{count} rows" if rows else told[-1], rows=rows)


def rows_of_benchmark(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Turn what `tools/benchmark.py --json` writes into rows."""
    if "figures" in found:
        return [_row(one["name"], {one["unit"]: one["value"]}) for one in found["figures"]]
    keys = {"seconds": ("ms", 1e3), "baseline_seconds": ("baseline ms", 1e3), "share_of_limit": ("of limit %", 100.0)}
    keys |= {"error": ("error", 1.0)}
    rows = []
    for one in found.get("rows", []):
        numbers = {label: factor * one[key] for key, (label, factor) in keys.items() if key in one}
        rows.append(_row(one["name"], numbers))
    return rows


def _row(name: str, numbers: dict[str, float]) -> dict[str, Any]:
    return {"name": name, "status": "ok", "remark": "", "numbers": numbers}


def run_part(part: str, args: argparse.Namespace, left: float) -> Step:
    """Run a part; what breaks down is its outcome."""
    start = time.monotonic()
    if left <= 0:
        return Step(part, "FAIL", f"not begun: the {args.limit:.0f} seconds are over")
    if part == "packages":
        try:
            step = Step(part, remark=packages.install(args.wheels))
        except (RuntimeError, OSError) as problem:
            step = Step(part, "FAIL", str(problem))
    elif part == "benchmark vocabulary" and args.small:
        step = Step(part, "skipped", "takes minutes on a CPU, however small; speed measures three lists of words")
    else:
        step = run_command(part, args, left)
    step.seconds = time.monotonic() - start
    return step


def machine() -> dict[str, str]:
    """Return what the machine is, as far as its tools tell."""
    found = {"python": sys.version.split()[0]}
    queries = {
        "gpu": ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        "nvcc": ["nvcc", "--version"],
        "torch": [sys.executable, "-c", "import torch; print(torch.__version__, 'CUDA', torch.version.cuda)"],
    }
    for name, query in queries.items():
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
            found[name] = (
                done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout.strip() else "none"
            )
        except (OSError, subprocess.TimeoutExpired):
            found[name] = "none"
    return found


def markdown(report: dict[str, Any]) -> str:
    """Return the report as tables for benchmarks/README.md."""
    about = report["machine"]
    lines = [
        f"## Checked on {report['device']}, {report['date']}",
        "",
        f"{about['gpu']}; torch {about['torch']}; nvcc {about['nvcc']}; Python {about['python']}; "
        f"{'dry run of small sizes' if report['small'] else 'full sizes'}.",
        "",
        "    tools/gpu_check.sh --device " + str(report["device"]),
        "",
        "| part | | seconds | |",
        "|---|---|---|---|",
    ]
    lines += [f"| {s['name']} | {s['status']} | {s['seconds']:.0f} | {s['remark']} |" for s in report["steps"]]
    lines += ["", "| measured | | numbers |", "|---|---|---|"]
    for step in report["steps"]:
        for row in step["rows"]:
            numbers = ", ".join(f"{value:.4g} {unit}" for unit, value in row["numbers"].items())
            tail = "; ".join(filter(None, (numbers, row["remark"])))
            lines.append(f"| {step['name']}: {row['name']} | {row['status']} | {tail} |")
    return "\n".join(lines) + "\n"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="tools/gpu_check.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--device", default="cuda", help="cuda, cuda:1, or cpu for a dry run of small sizes (%(default)s)")
    add("--wheels", type=Path, default=Path("wheels"), help="folder of wheels for what is missing (%(default)s)")
    add("--download", type=Path, metavar="DIR", help="only fill a folder of wheels, with a network")
    add("--output", type=Path, default=Path("gpu-check"), metavar="DIR", help="report, logs, operators (%(default)s)")
    add("--parts", default=",".join(PARTS), help="comma separated (%(default)s)")
    add("--limit", type=float, default=600, help="seconds for everything (%(default)s)")
    args = parser.parse_args(argv)
    args.parts = args.parts.split(",")
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part '{unknown[0]}'; expected some of {', '.join(PARTS)}")
    args.small = args.device == "cpu"
    args.output, args.wheels = args.output.resolve(), args.wheels.resolve()
    return args


def main(argv: list[str] | None = None, say: Callable[[str], object] = print) -> int:
    """Run the tool; the result is 0 if nothing failed, 1 if something did, 2 if it could not begin."""
    args = parse_args(argv)
    if args.download:
        try:
            say(packages.download(args.download))
        except (RuntimeError, OSError) as problem:
            print(f"error: {problem}", file=sys.stderr)
            return 2
        return 0
    args.output.mkdir(parents=True, exist_ok=True)
    steps, start = list[Step](), time.monotonic()
    for part in args.parts:
        step = run_part(part, args, args.limit - (time.monotonic() - start))
        steps.append(step)
        say(f"{step.status:>7} {step.name:<20} {step.seconds:>4.0f} s  {step.remark}")
        sys.stdout.flush()
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "device": args.device,
        "small": args.small,
        "machine": machine(),
        "seconds": time.monotonic() - start,
        "steps": [vars(step) for step in steps],
    }
    (args.output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.output / "report.md").write_text(markdown(report))
    say(f"{report['seconds']:.0f} s; {args.output}/report.json and report.md")
    return int(any(step.status == "FAIL" for step in steps))


if __name__ == "__main__":
    sys.exit(main())
