"""Check the installation: versions, devices, caches; for each thing that is wrong, the line that mends it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = """\
examples:
  ovseg doctor
  ovseg doctor --fix
  ovseg doctor --dtype san-vit-b-16 photos/ --classes "cat, dog, sofa"

--fix says and runs those lines: what is missing is installed (Detectron2 from a wheel pinned by its sha256), operators
are compiled where there is a compiler. Where nothing is wrong it does nothing. Lines that change your shell or fetch
another torch are left to you.

exit codes: 0 nothing is broken, 1 something is
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg doctor``."""
    parser.add_argument("--fix", action="store_true", help="run the lines that mend what is wrong, then check again")
    parser.add_argument(
        "--dtype",
        nargs="+",
        metavar=("MODEL", "IMAGES"),
        help="measure how many labels of these images the model keeps in bf16, for --dtype auto from then on",
    )
    parser.add_argument("--classes", metavar="WORDS", help="with --dtype: as for segment (default: the model's own)")


def run(args: argparse.Namespace) -> int:
    """Print the report; exit code 1 when something is wrong."""
    if args.dtype or args.classes:
        from ovseg.cli.doctor_dtype import check_dtype

        return check_dtype(args.dtype or [], args.classes)
    from ovseg.doctor import report
    from ovseg.system import terminal

    console = terminal.console()
    return 0 if (fix if args.fix else report)(console) else 1


def fix(console: Console) -> bool:
    """Run the lines that mend what is wrong, say each, and report; return True when nothing is broken in the end."""
    from ovseg.doctor import report, run_checks, run_checks_afresh
    from ovseg.system.mending import OFFLINE, mend

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    checks, failed = mend(run_checks(), run_checks_afresh, say)
    whole = report(console, list(checks))
    if failed:
        say(OFFLINE)
    return whole and not failed
