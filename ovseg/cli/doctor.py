"""Check the installation: versions, devices, caches; for each thing that is wrong, the line that mends it."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  ovseg doctor
  ovseg doctor --dtype san-vit-b-16 photos/ --classes "cat, dog, sofa"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg doctor``."""
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

    return 0 if report(terminal.console()) else 1
