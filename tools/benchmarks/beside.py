"""Two versions in one run: this checkout beside another, in turn, with the same weights, words and image.

A process for each side and precision stays loaded and sleeps while others work; rounds go A B C, C B A. ``auto`` is
what `--dtype auto` takes after `ovseg doctor --dtype` has measured the model on the image (`ovseg.system.precision`);
``bf16`` stands beside it whatever that says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.common import in_fresh_process
from benchmarks.figures import machine
from benchmarks.models import SHIPPED
from benchmarks.spread_weights import photograph, write_weights
from ovseg.config import config_root
from ovseg.errors import EnvironmentProblem, InputError, unknown_name
from ovseg.ops.library import load_kernels
from ovseg.system import terminal
from ovseg.system.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("side.py")
IMAGE, SIZE = ROOT / "examples" / "street.jpg", 640
OTHER, MODES = "other", ("fp32", "auto", "bf16")
OLDER = {"san": "san/san_vit_b_16.yaml", "fcclip": "fcclip/fcclip_cocopan.yaml"}
"""Names that configs had in older versions."""


@dataclass(frozen=True)
class Row:
    """What is asked of a model: so many classes, and what besides labels."""

    model: str
    classes: int
    want: str

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.model}, {self.classes} classes, {self.want}"


ROWS = (
    Row("san", 150, "labels"),
    Row("san", 847, "labels"),
    Row("fcclip", 150, "everything"),
    Row("fcclip", 150, "panoptic"),
)


class Side:
    """A process that has a model of one version."""

    def __init__(self, root: Path, cache: Path) -> None:
        """Start it with the packages of a checkout, and a cache folder of its own."""
        environment = {**os.environ, "PYTHONPATH": str(root), "OVSEG_CACHE": str(cache)}
        command = [sys.executable, str(WORKER)]
        self.process = subprocess.Popen(
            command, env=environment, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.root = root

    def __enter__(self) -> Side:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()

    def do(self, name: str, **order: Any) -> dict[str, Any]:
        """Let it do something of `benchmarks.side`.

        Raises:
            EnvironmentProblem: It could not.
        """
        pipe: IO[str] = self.process.stdin  # type: ignore[assignment]
        print(json.dumps({"do": name, **order}), file=pipe, flush=True)
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        found: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in found:
            raise EnvironmentProblem(f"{self.root} could not {name} {order}: {found['error']}")
        return found


def compare(against: Path, only: str, rounds: int, path: Path | None, tell: Callable[[str], Any]) -> int:
    """Measure and print; the exit status is 0.

    Args:
        against: Another checkout of this project.
        only: Only rows whose name has this in it.
        rounds: Timed calls of each.
        path: Of a JSON file of all numbers, or None.
        tell: Is told what is under way.

    Raises:
        InputError: There is no such checkout.
        EnvironmentProblem: A side could not do what was asked.
    """
    if not (against / "ovseg" / "__init__.py").is_file():
        raise InputError(f"--against got '{against}'; expected a checkout: git worktree add {against} COMMIT")
    rows = [row for row in ROWS if only in row.name]
    if not rows:
        raise unknown_name("row", only, [row.name for row in ROWS])
    found = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        torch.save(photograph(IMAGE, SIZE), work / "image.pt")
        for model in dict.fromkeys(row.model for row in rows):
            found += measure(model, [row for row in rows if row.model == model], against, rounds, work, tell)
            (work / f"{model}.pt").unlink()
    print_table(found, rounds)
    if path:
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps({"machine": machine(), "rounds": rounds, "rows": found}, indent=1) + "\n")
    return 0


def measure(
    model: str, rows: list[Row], against: Path, rounds: int, work: Path, tell: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """Measure the rows of a model on both sides."""
    tell(f"{model}: weights ...")
    weights, config = work / f"{model}.pt", str(config_root() / SHIPPED[model])
    in_fresh_process(partial(_write, config, work / "image.pt"), weights, model)
    roots = {OTHER: against.resolve(), **dict.fromkeys(MODES, ROOT)}
    order = {"configs": [SHIPPED[model], OLDER[model]], "weights": str(weights), "image": str(work / "image.pt")}
    tell(f"{model}: labels in bf16 ...")
    with Side(ROOT, make_cache(work, "auto")) as side:
        decision = side.do("decide", classes=rows[0].classes, **order)["decision"]
    with ExitStack() as stack:
        sides = dict[str, Side]()
        for name, root in roots.items():
            tell(f"{model}: loading {name} ...")
            sides[name] = stack.enter_context(Side(root, make_cache(work, name)))
            sides[name].do("load", dtype="fp32" if name == OTHER else name, **order)
        return [measure_row(row, sides, rounds, work, decision, tell) for row in rows]


def _write(config: str, image: Path, weights: Path) -> None:
    write_weights(config, torch.load(image), weights)


def make_cache(work: Path, name: str) -> Path:
    """Make a cache folder with the compiled operators of the usual one; older versions know them if they are theirs."""
    folder, kernels = work / f"cache-{name}", load_kernels()
    (folder / "ops").mkdir(parents=True, exist_ok=True)
    if kernels is not None and not (folder / "ops" / kernels.name).exists():
        for library in kernels.parent.iterdir():
            (folder / "ops" / library.name).symlink_to(library)
    return folder


def measure_row(
    row: Row, sides: Mapping[str, Side], rounds: int, work: Path, decision: str, tell: Callable[[str], Any]
) -> dict[str, Any]:
    """Measure a row on all sides, in turn; the first call gives memory, the second results."""
    found: dict[str, Any] = {"row": row.name, "decision": decision, "sides": {}}
    for name, side in sides.items():
        tell(f"{row.name}: {name} ...")
        facts = {**side.do("prepare", classes=row.classes), **side.do("weigh", want=row.want)}
        side.do("call", want=row.want, keep=str(work / f"{name}.npz"))
        found["sides"][name] = {**facts, "seconds": [], "processor": [], "same": agreement(work, name)}
    for index in range(rounds):
        tell(f"{row.name}: round {index + 1} of {rounds} ...")
        for name in list(sides)[:: -1 if index % 2 else 1]:
            for key, value in sides[name].do("call", want=row.want).items():
                found["sides"][name][key].append(value)
    return found


def agreement(work: Path, name: str) -> dict[str, float]:
    """Return for labels and segments the share of pixels that are as on the other side."""
    with np.load(work / f"{OTHER}.npz") as other, np.load(work / f"{name}.npz") as own:
        return {key: float((other[key] == own[key]).mean()) for key in other.files if key in own.files}


def print_table(found: list[dict[str, Any]], rounds: int) -> None:
    """Print what was found."""
    console, table = terminal.console(), Table(title=f"this checkout beside another, {rounds} rounds; {machine()}")
    for header in ("", "side", "median s", "min s", "ratio", "ratio of min", "processor", "MiB", "labels", "segments"):
        table.add_column(header, justify="left" if header in ("", "side") else "right", no_wrap=bool(header))
    for row in found:
        base = row["sides"][OTHER]
        for name, side in row["sides"].items():
            ratios = [
                f"{measure_of(side[key]) / measure_of(base[key]):.2f}"
                for key, measure_of in (("seconds", statistics.median), ("seconds", min), ("processor", min))
            ]
            shares = [
                f"{100 * side['same'][key]:.4f} %" if key in side["same"] else "" for key in ("labels", "segments")
            ]
            kind = f"{name}, {side['dtype'].removeprefix('torch.')}{'' if side['kernels'] else ', no operators'}"
            seconds = (f"{statistics.median(side['seconds']):.3f}", f"{min(side['seconds']):.3f}")
            last = name == list(row["sides"])[-1]
            label = row["row"] if name == OTHER else ""
            table.add_row(label, kind, *seconds, *ratios, f"{side['memory']:.0f}", *shares, end_section=last)
    console.print(table)
    for decision in dict.fromkeys(f"{row['row'].partition(',')[0]}: {row['decision']}" for row in found):
        console.print(decision, soft_wrap=True, markup=False, highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument of the comparison to those of ``models``."""
    parser.add_argument(
        "--against", type=Path, metavar="WORKTREE", help="time this checkout and another in turn, and nothing else"
    )
