"""Segment the pictures of examples/ with the embedded model, write overlays and print what was found where.

    python tools/demo.py
    python tools/demo.py --model sclip/ViT-B-16/openai --output output/sclip

For pictures of your own: ``ovseg segment photo.jpg --classes "cat, sofa" --output out``.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

from rich.table import Table

import ovseg
from ovseg.errors import InputError, OvsegError
from ovseg.result.files import plan_files, write_files
from ovseg.system import terminal

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def main(argv: list[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=Path("output/demo"))
    args = parser.parse_args(argv)
    try:
        words = json.loads((EXAMPLES / "examples.json").read_text())
    except OSError as error:
        raise InputError(
            f"cannot read '{EXAMPLES / 'examples.json'}' ({error.strerror}); run from a checkout"
        ) from error
    places = plan_files([EXAMPLES / name for name in words], args.output)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        segmenter = ovseg.load(args.model, args.device)
    for line in dict.fromkeys(str(one.message) for one in told if one.category is UserWarning):
        print(f"note: {terminal.one_line(line)}", file=sys.stderr)
    table = Table(title=f"{args.model} on {segmenter.device}", title_justify="left", show_lines=True)
    for column in ("photograph", "found (share of the picture, mean score)", "seconds", "overlay"):
        table.add_column(column, overflow="fold")
    for name, classes in words.items():
        result = segmenter(EXAMPLES / name, classes)
        found = [
            f"{s.name} {100 * s.area_fraction:.0f} % ({s.score:.2f})"
            for s in sorted(result.segments, key=lambda s: -s.area)
        ]
        files = write_files(result, places[str(EXAMPLES / name)])
        table.add_row(name, "\n".join(found), f"{result.meta['timings']['seconds']:.2f}", str(files["overlay"].path))
    terminal.console().print(table)
    print(f"overlays, 16-bit labels and reports: {args.output.resolve()}")


if __name__ == "__main__":
    try:
        main()
    except OvsegError as error:
        sys.exit(f"error: {error}")
