"""Check the installation: versions, devices, caches; for each thing that is wrong, the line that mends it."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  ovseg doctor
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg doctor``: none."""


def run(args: argparse.Namespace) -> int:
    """Print the report; exit code 1 when something is wrong."""
    from ovseg.doctor import report
    from ovseg.system import terminal

    return 0 if report(terminal.console()) else 1
