"""Build the wheel, install it into a clean environment without this checkout, and use it in a foreign folder.

The source distribution is built first, the wheel from that alone. The standard library is all that this tool needs.

Examples:
    python tools/check_package.py
    python tools/check_package.py --python python3.13 --extras train,web,export
    python tools/check_package.py --only import,segment --constraints requirements/constraints.txt
    python tools/check_package.py --wheel dist/ovseg-0.1.0-py3-none-any.whl --pip "--no-index --find-links wheelhouse"
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from install_checks.environments import CannotCheck, Environment, build, last_line, make_environment, missing_files
from install_checks.steps import STEPS, Bench, run_steps


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--python", default=sys.executable, help="interpreter of the environment (this one)")
    add("--wheel", type=Path, help="a wheel to check instead of building one")
    add("--extras", default="train,web,export", help="(%(default)s)")
    add("--constraints", type=Path, help="file for pip's -c")
    add("--pip", default="", metavar="OPTIONS", help="more options of `pip install`, in one word")
    add("--only", default=",".join(STEPS), metavar="STEPS", help="comma separated (%(default)s)")
    add("--keep", type=Path, metavar="DIR", help="work there and leave everything (default: a folder that is removed)")
    args = parser.parse_args(argv)
    unknown = [name for name in args.only.split(",") if name not in STEPS]
    if unknown:
        parser.error(f"unknown step '{unknown[0]}'; expected some of {', '.join(STEPS)}")
    return args


def install(environment: Environment, wheel: Path, args: argparse.Namespace) -> None:
    """Install the wheel with its extras by pip.

    Raises:
        CannotCheck: It cannot be installed.
    """
    options = [*(["-c", str(args.constraints.resolve())] if args.constraints else []), *shlex.split(args.pip)]
    wanted = f"{wheel.resolve()}[{args.extras}]" if args.extras else str(wheel.resolve())
    command = ["python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, wanted]
    done = environment.run(command, environment.folder)
    if done.returncode:
        raise CannotCheck(f"pip cannot install {wanted}: {last_line(done.stdout)}")


def check(args: argparse.Namespace, work: Path) -> int:
    """Build, look into the wheel, install, and run the steps; return how many failed."""
    wheel = args.wheel or build(work)
    print(f"wheel: {wheel.name}, {wheel.stat().st_size / 2**20:.0f} MiB", flush=True)
    missing = missing_files(wheel)
    for name in missing:
        print(f"   FAIL the wheel lacks {name}")
    environment = make_environment(Path(args.python), work / "environment")
    install(environment, wheel, args)
    folder = work / "elsewhere"
    folder.mkdir()
    outcomes = run_steps(Bench(environment, folder), args.only.split(","))
    return len(missing) + sum(outcome.status == "FAIL" for outcome in outcomes)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; the result is 0 if nothing failed, 1 if something did, 2 if it could not be tried."""
    args = parse_args(argv)
    try:
        if args.keep:
            args.keep.mkdir(parents=True, exist_ok=True)
            return int(check(args, args.keep.resolve()) > 0)
        with tempfile.TemporaryDirectory(prefix="ovseg-package-") as work:
            return int(check(args, Path(work).resolve()) > 0)
    except CannotCheck as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
