"""Check a data set before training: what is in it, and what is wrong with it, one line per problem.

Problems are: images without masks and masks without images, ids that are not in the list of classes, labels of too few
bits, sizes that differ, files that cannot be read. Eight images with their masks are drawn into one PNG.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ovseg.data.checking import Report

EXAMPLES = """\
examples:
  ovseg datasets check mydata
  ovseg datasets check data/scenes/train --drawing scenes.png
  ovseg datasets check coco_stuff_train2017 --limit 500 --json

layouts:
  images/a.jpg + labels/a.png + classes.txt    value of a pixel = line of classes.txt, from 0; 255 or 65535 = no class
  images/ + one COCO JSON file                 polygons or run lengths
  images/ + panoptic/ + panoptic.json          COCO panoptic, as datasets/prepare_scenes.py writes it

exit codes: 0 nothing is wrong, 1 there are problems, 2 the data set cannot be read at all
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ovseg datasets``."""
    parser.add_argument("action", choices=["check"], help="what to do")
    parser.add_argument("data", metavar="DIR", help="a folder, or a name such as coco_stuff_train2017")
    parser.add_argument("--vocabulary", default="", help="check with these classes instead of its own")
    parser.add_argument("--limit", type=int, help="read only so many images, evenly spread (default: all)")
    parser.add_argument("--drawing", type=Path, help="where the samples are drawn (default: NAME_samples.png here)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    """Check, print and draw."""
    from ovseg.data.checking import check_dataset, draw_samples
    from ovseg.data.registration import load_datasets
    from ovseg.errors import ConfigError, InputError
    from ovseg.files import atomic_write

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit is {args.limit}; expected at least 1")
    dataset = load_datasets([args.data], args.vocabulary)[0]
    report = check_dataset(dataset, args.limit)
    drawing = args.drawing or Path(f"{Path(args.data).resolve().name}_samples.png")
    try:
        picture = draw_samples(dataset)
        with atomic_write(drawing) as temporary:
            picture.save(temporary)
    except InputError as error:
        report.problems.append(str(error))
    if args.json:
        print(json.dumps(to_json(report), indent=1))
    else:
        _print(report, drawing)
    return 1 if report.problems else 0


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON values."""
    rows = zip(report.dataset.classes.names, report.in_images.tolist(), report.pixels.tolist(), strict=True)
    return {
        "data": report.dataset.name,
        "kind": report.dataset.kind,
        "images": report.images,
        "bits": {str(bits): files for bits, files in sorted(report.depths.items())},
        "void_pixels": report.void,
        "classes": [{"name": name, "images": images, "pixels": pixels} for name, images, pixels in rows],
        "problems": report.problems,
    }


def _print(report: Report, drawing: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    dataset = report.dataset
    found = int((report.in_images > 0).sum())
    bits = "".join(f", {files} labels of {depth} bits" for depth, files in sorted(report.depths.items()))
    print(f"{dataset.name}: {dataset.kind}, {report.images} of {len(dataset.records)} images are sound{bits}")
    view = Table()
    for column in ("id", "class", "images", "pixels"):
        view.add_column(column, justify="left" if column == "class" else "right")
    total = max(int(report.pixels.sum()) + report.void, 1)
    order = sorted(range(len(dataset.classes)), key=lambda i: -int(report.pixels[i]))
    for i in order[: min(found, 20)]:
        share = f"{100 * int(report.pixels[i]) / total:.1f} %"
        view.add_row(str(i), Text(dataset.classes[i].name), str(report.in_images[i]), share)
    Console().print(view)
    print(f"{found} of {len(dataset.classes)} classes occur; {100 * report.void / total:.1f} % of the pixels are void")
    if drawing.is_file():
        print(f"samples are drawn in {drawing}")
    for problem in report.problems:
        print(f"problem: {problem}")
    print(f"{len(report.problems)} problem{'' if len(report.problems) == 1 else 's'}")
