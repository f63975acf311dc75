"""The fast suite and the wheel's own checks for each Python, with the oldest and the newest of what setup.py allows.

Each environment is made by uv, for its cache is shared and it can resolve to the lower bounds. What cannot be had here
(an interpreter, a wheel, room on the disk) is skipped, and said.

Examples:
    tools/test_matrix.sh
    tools/test_matrix.sh --pythons 3.10,3.13 --suite smoke
    tools/test_matrix.sh --pythons 3.10 --bounds oldest --suite tests/clip,tests/zoo --jobs 2
    tools/test_matrix.sh --suite none --json matrix.json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from pathlib import Path

from install_checks.environments import ROOT, CannotCheck, Environment, build, call, find_python, find_uv, last_line
from install_checks.steps import Bench, run_steps

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
BOUNDS = ("oldest", "newest")
EXTRAS = ("train", "test", "web", "hf", "export", "crf", "heif", "tiff")
SMOKE = (
    "tests/test_segmenter.py",
    "tests/test_doctor.py",
    "tests/ops",
    "tests/meta_arch",
    "tests/cli/test_segment_command.py",
)
COMPILED = (
    "torch torchvision numpy scipy pillow opencv-python-headless pycocotools pyyaml safetensors matplotlib "
    "scikit-image imagecodecs onnx onnxruntime pandas tokenizers sentencepiece grpcio contourpy mypy "
    "pillow-heif faster-coco-eval"
).split()
"""Packages of which only wheels count: to compile an old one is not what anybody does who installs ovseg."""

DISK = 9 * 2**30
"""Bytes that an environment with torch and its CUDA libraries takes, with some to spare."""


@dataclass
class Row:
    """One environment.

    Attributes:
        python: Version of Python.
        bounds: ``oldest`` or ``newest``.
        versions: Of torch and others that were installed.
        wheel: What came of the wheel's checks.
        suite: What came of the tests.
        minutes: All of it.
        problems: Names of what failed.
    """

    python: str
    bounds: str
    versions: str = ""
    wheel: str = "-"
    suite: str = "-"
    minutes: float = 0.0
    problems: tuple[str, ...] = ()


def requirements(uv: Path, python: Path, bounds: str, folder: Path) -> Path:
    """Write what is installed into an environment, every version pinned.

    ``oldest`` takes the lower bound of each package that setup.py names, or the first above it that has a wheel for
    this Python; ``newest`` what requirements/constraints.txt says.

    Raises:
        CannotCheck: There is no such set of versions.
    """
    target = folder / f"{bounds}.txt"
    command = [uv, "pip", "compile", "--quiet", "--python", python, ROOT / "setup.py", "--output-file", target]
    command += [part for extra in EXTRAS for part in ("--extra", extra)]
    command += [part for package in COMPILED for part in ("--only-binary", package)]
    if bounds == "oldest":
        command += ["--resolution", "lowest-direct"]
    else:
        command += ["--constraint", ROOT / "requirements/constraints.txt"]
    call(command)
    return target


def make(uv: Path, python: Path, bounds: str, wheel: Path, folder: Path) -> Environment:
    """Make an environment with the wheel, everything for the tests, and Detectron2 still missing.

    Raises:
        CannotCheck: There is no room, or something cannot be had.
    """
    if (free := shutil.disk_usage(folder).free) < DISK:
        raise CannotCheck(f"{free / 2**30:.0f} GiB are free in {folder}, expected {DISK / 2**30:.0f}")
    environment = Environment(folder / "environment")
    call([uv, "venv", "--quiet", "--python", python, environment.folder])
    install = [uv, "pip", "install", "--quiet", "--python", environment.python]
    call([*install, "-r", requirements(uv, python, bounds, folder)])
    call([*install, "--no-deps", wheel, "panopticapi-lite==0.2.0"])
    return environment


def versions(environment: Environment) -> str:
    """Return the versions that differ most between rows."""
    names = ("torch", "numpy", "open_clip_torch", "huggingface_hub", "transformers", "gradio")
    code = f"from importlib.metadata import version as v; print(*(n + ' ' + v(n) for n in {names!r}), sep=', ')"
    return environment.run(["python", "-c", code], environment.folder).stdout.strip()


def run_suite(environment: Environment, suite: str, jobs: int, folder: Path) -> tuple[str, list[str]]:
    """Run tests of this checkout with an environment; return counts in words, and the names of those that failed."""
    paths = {"smoke": list(SMOKE), "fast": ["tests"]}.get(suite, suite.split(","))
    report = folder / "tests.xml"
    command = ["python", "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", f"--junitxml={report}", *paths]
    command += ["-n", str(jobs), "--dist", "loadfile"] if jobs > 1 else []
    variables = {"OVSEG_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = environment.run(command, ROOT, variables, timeout=6 * 3600)
    if not report.is_file():
        return f"broke off: {last_line(done.stdout)}", ["pytest"]
    return read_report(report)


def read_report(path: Path) -> tuple[str, list[str]]:
    """Return the counts of a JUnit file in words, and the names of the tests that failed."""
    cases = list(ElementTree.parse(path).getroot().iter("testcase"))
    wrong = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname', '')}.{case.get('name', '')}" for case in wrong]
    return f"{len(cases) - len(wrong) - skipped} passed, {len(wrong)} failed, {skipped} skipped", names


def check(row: Row, args: argparse.Namespace, uv: Path, wheel: Path, folder: Path) -> None:
    """Fill in a row.

    Raises:
        CannotCheck: It cannot be tried here.
    """
    start = time.monotonic()
    environment = make(uv, find_python(row.python), row.bounds, wheel, folder)
    row.versions = versions(environment)
    print(f"   {row.versions}", flush=True)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    outcomes = run_steps(Bench(environment, elsewhere))
    failed = [f"wheel: {outcome.name}" for outcome in outcomes if outcome.status == "FAIL"]
    row.wheel = f"{sum(outcome.status == 'ok' for outcome in outcomes)} of {len(outcomes)} steps"
    if args.suite != "none":
        row.suite, names = run_suite(environment, args.suite, args.jobs, folder)
        failed += names
    row.problems, row.minutes = tuple(failed), (time.monotonic() - start) / 60


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| Python | versions | wheel | tests | minutes |", "|---|---|---|---|---|"]
    lines += [f"| {r.python} | {r.bounds}: {r.versions} | {r.wheel} | {r.suite} | {r.minutes:.0f} |" for r in rows]
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="tools/test_matrix.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pythons", default=",".join(PYTHONS), help="comma separated (%(default)s)")
    add("--bounds", default=",".join(BOUNDS), help="oldest, newest or both (%(default)s)")
    add("--suite", default="fast", help="fast, smoke (a part of it), none, or paths of tests with commas (%(default)s)")
    add("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes of the tests (%(default)s)")
    add("--work", type=Path, help="folder to work in, whose rows are kept (default: one that is removed)")
    add("--json", type=Path, metavar="FILE", help="write the rows there, too")
    args = parser.parse_args(argv)
    for name, known in (("pythons", PYTHONS), ("bounds", BOUNDS)):
        values = getattr(args, name).split(",")
        unknown = [value for value in values if value not in known]
        if unknown:
            parser.error(f"--{name} '{unknown[0]}'; expected some of {', '.join(known)}")
        setattr(args, name, values)
    return args


def main(argv: list[str] | None = None) -> int:
    """Run the matrix; the result is 0 if nothing failed, 1 if something did, 2 if nothing could be tried."""
    args = parse_args(argv)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="ovseg-matrix-") as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        try:
            uv, wheel = find_uv(work / "uv"), build(work)
        except CannotCheck as why:
            print(f"error: {why}", file=sys.stderr)
            return 2
        for row in (Row(python, bounds) for python in args.pythons for bounds in args.bounds):
            print(f"== Python {row.python}, {row.bounds}", flush=True)
            folder = work / f"{row.python}-{row.bounds}"
            folder.mkdir()
            try:
                check(row, args, uv, wheel, folder)
            except CannotCheck as why:
                row.wheel = "skipped"
                row.versions = str(why)
                print(f"skipped: {why}", flush=True)
            rows.append(row)
            for problem in row.problems:
                print(f"   FAIL {problem}", flush=True)
            if not args.work:
                shutil.rmtree(folder)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if all(row.wheel == "skipped" for row in rows):
        return 2
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())
