"""Segment the example photographs that come with the package: overlays, label maps, and what was found where."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """\
examples:
  ovseg demo
  ovseg demo --model sclip/ViT-B-16/openai --output output/sclip

For pictures of your own: ovseg segment photo.jpg --classes "cat, sofa" --output out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg demo``."""
    parser.add_argument("--model", default="mini", help="a name of `ovseg models` (%(default)s)")
    parser.add_argument("--device", default="auto", help="(%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="DIR", help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Segment, write and print."""
    from rich.table import Table

    from ovseg.config import examples_root
    from ovseg.errors import InputError
    from ovseg.result.files import plan_files, write_files
    from ovseg.serve.service import examples
    from ovseg.system import terminal
    from ovseg.zoo import load

    words, root = examples(), examples_root()
    if not words:
        raise InputError(
            f"'{root / 'examples.json'}' is missing; install ovseg anew: "
            "`pip install --force-reinstall --no-deps ovseg`"
        )
    places = plan_files([root / name for name in words], args.output)
    segmenter = load(args.model, args.device)
    table = Table(title=f"{args.model} on {segmenter.device}", title_justify="left", show_lines=True)
    for column in ("photograph", "found (share of the picture, mean score)", "seconds", "overlay"):
        table.add_column(column, overflow="fold")
    for name, classes in words.items():
        (result,) = segmenter.stream(root / name, classes)
        largest = sorted(result.segments, key=lambda segment: -segment.area)
        found = [f"{one.name} {100 * one.area_fraction:.0f} % ({one.score:.2f})" for one in largest]
        files = write_files(result, places[str(root / name)])
        table.add_row(name, "\n".join(found), f"{result.meta['timings']['seconds']:.2f}", str(files["overlay"].path))
    terminal.console().print(table)
    print(f"overlays, 16-bit labels and reports: {args.output.resolve()}")
    return 0
