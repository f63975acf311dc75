"""Figures of a benchmark with their limits: a table, a JSON file, and a comparison with the file of an earlier run."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.table import Table

from ovseg.errors import InputError
from ovseg.system import terminal
from ovseg.system.files import atomic_write, check_writable


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        name: What was measured; the same in every run.
        value: The number.
        unit: Its unit.
        limit: What it may not exceed, or not fall below; None where there is no limit.
        at_least: Whether the limit is a lower one.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the limit holds."""
        return self.limit is None or (self.value >= self.limit if self.at_least else self.value <= self.limit)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--json`` and ``--compare``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="numbers of an earlier run to print beside")


def check_report_arguments(args: argparse.Namespace) -> dict[str, float]:
    """Return the values by name in the file of ``--compare``; find mistakes before anything is measured.

    Raises:
        InputError: That file is none that ``--json`` wrote, or the folder of ``--json`` cannot be written to.
    """
    if args.json:
        check_writable(args.json.parent)
    if not args.compare:
        return {}
    try:
        return {row["name"]: float(row["value"]) for row in json.loads(args.compare.read_text())["figures"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot compare with '{args.compare}' ({error!r}); expected a file of --json") from error


def report(title: str, figures: Sequence[Figure], args: argparse.Namespace, before: dict[str, float]) -> int:
    """Print and write the figures; return the exit status, 1 where a limit does not hold."""
    console = terminal.console()
    console.print(make_table(f"{title}; {machine()}", figures, before))
    failed = [figure for figure in figures if not figure.holds]
    for figure in failed:
        sign = "at least" if figure.at_least else "at most"
        console.print(f"FAIL {figure.name}: {_number(figure.value)} {figure.unit}; expected {sign} {figure.limit:g}")
    if args.json:
        rows = [{**asdict(figure), "holds": figure.holds} for figure in figures]
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps({"title": title, "machine": machine(), "figures": rows}, indent=1) + "\n")
    return 1 if failed else 0


def make_table(title: str, figures: Sequence[Figure], before: dict[str, float]) -> Table:
    """Return a table of figures with their limits, and with those of an earlier run where there are any."""
    table = Table(title=title, title_justify="left")
    table.add_column("measured")
    for header in ("value", "limit", *(["before"] if before else [])):
        table.add_column(header, justify="right")
    for figure in figures:
        limit = "" if figure.limit is None else f"{'>=' if figure.at_least else '<='} {figure.limit:g}"
        earlier = [_number(before[figure.name]) if figure.name in before else "-"] if before else []
        table.add_row(figure.name, f"{_number(figure.value)} {figure.unit}", limit, *earlier)
    return table


def machine() -> str:
    """Say on what is measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or platform.machine())
    threads = torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}"


def _number(value: float) -> str:
    """Return a number with three digits that count, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
