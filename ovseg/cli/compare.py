"""Compare runs of `ovseg eval` on one data set: side by side, with confidence intervals and pictures.

Writes compare.html (to open in a browser), compare.json and compare.md (a Markdown table). The first run is what the
others are measured against; intervals come from a paired bootstrap over the images that all runs have evaluated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  ovseg compare runs/clip runs/sclip runs/clearclip --output runs/comparison
  ovseg compare runs/a runs/b --resamples 10000 --seed 1 --output runs/a-b
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg compare``."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folders of `ovseg eval`")
    parser.add_argument("--output", type=Path, default=Path("comparison"), metavar="DIR", help="default: comparison")
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="drawn data sets (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Compare, write and print the table."""
    from ovseg.evaluation.reports.compare import compare
    from ovseg.evaluation.reports.compare_report import PAGE, markdown, write_comparison

    summary, entries = compare(args.folders, args.resamples, args.seed)
    write_comparison(args.output, summary, entries)
    print(markdown(summary), end="")
    for note in summary["notes"]:
        print(f"note: {note}")
    print(f"{summary['images']} images; {args.output / PAGE}")
    return 0
