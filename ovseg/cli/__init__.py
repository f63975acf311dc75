"""The command line: ``ovseg segment | models | doctor | cache``. Thin: it parses, calls the library, prints."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ovseg._version import __version__
from ovseg.errors import OvsegError

COMMANDS = {
    "segment": "label every pixel of images with your words",
    "models": "list models: licence, size, where weights come from",
    "doctor": "check the installation and say what mends it",
    "cache": "list or clear the cached text embeddings",
}

EXAMPLES = """\
examples:
  ovseg segment photo.jpg --classes "cat, red chair|armchair, window" --output out
  ovseg segment photos/ --classes words.txt --background words --output out
  ovseg models
  ovseg doctor
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser with one subcommand per module of this package."""
    parser = argparse.ArgumentParser(
        prog="ovseg",
        description="Dense open-vocabulary segmentation: any image, any words, a label for every pixel.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ovseg {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        module = import_module(f"ovseg.cli.{name}")
        sub = subparsers.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when all went well, 1 when a part failed (the rest was done), 2 for a user's mistake, 130 after ctrl-C.
    """
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args))
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was written before is complete", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `ovseg models | head`
        sys.stderr.close()
        return 0
