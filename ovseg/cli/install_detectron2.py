"""Install Detectron2 (its Python part) into this Python environment, without compiling anything."""

from __future__ import annotations

import argparse

EXAMPLES = """\
examples:
  ovseg install-detectron2
  ovseg install-detectron2 --from-source git+https://github.com/facebookresearch/detectron2

A Detectron2 that already imports is kept. What is downloaded is pinned by its sha256.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg install-detectron2``."""
    parser.add_argument(
        "--from-source", default="", metavar="URL", help="build upstream's source: a pip URL or a folder"
    )


def run(args: argparse.Namespace) -> int:
    """Install, and say what was done."""
    from ovseg.system.detectron2_installer import install

    print(install(args.from_source))
    return 0
