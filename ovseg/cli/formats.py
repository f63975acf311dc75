"""What ``ovseg segment`` and ``ovseg label`` write of each image, from their flags."""

from __future__ import annotations

import argparse
from typing import Any

_FLAGS = {
    "legend": "legend",
    "draw_ids": "ids",
    "own_ids": "own_ids",
    "uint8": "uint8",
    "palette": "palette",
    "polygons": "polygons",
}
"""Options of formats by the names of flags."""


def add_format_arguments(parser: argparse.ArgumentParser, default: str = "overlay,labels,report") -> None:
    """Add the arguments that say what is written."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--formats",
        default=default,
        help="what is written for each image: overlay, labels, report, png, npz, dataset, coco-semantic, "
        "coco-instance, coco-panoptic, yolo-seg, labelme, label-studio, cvat, voc (default: %(default)s)",
    )
    group.add_argument(
        "--legend",
        choices=("short", "all", "none"),
        help="classes that the legend of the overlay lists (default: short)",
    )
    group.add_argument("--draw-ids", action="store_true", help="write the ids of the classes into the overlay")
    group.add_argument(
        "--own-ids",
        action="store_true",
        help="values of label maps are the ids of your list (COCO categories, id2label, '7: sand'), not places in it",
    )
    group.add_argument("--uint8", action="store_true", help="png with 8 bits: up to 255 classes, 255 = no class")
    group.add_argument("--palette", action="store_true", help="png with 8 bits and the colours of the classes")
    group.add_argument(
        "--polygons",
        type=float,
        metavar="TOLERANCE",
        help="polygons that leave the outline by so many pixels at most, 0 = exact, in place of masks (coco-semantic, "
        "coco-instance, cvat, labelme), and of exact ones (yolo-seg)",
    )
    group.add_argument(
        "--min-score", type=float, default=0.0, metavar="S", help="pixels that are less sure (0..1) have no class"
    )
    group.add_argument(
        "--min-area",
        default="0",
        metavar="N",
        help="regions of fewer pixels, or of a smaller share of the image ('0.1%%'), go to their neighbours",
    )
    group.add_argument(
        "--fill-holes", action="store_true", help="pixels of no class that one class surrounds get that class"
    )


def format_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of formats that were given, by their names."""
    given = {option: getattr(args, flag) for flag, option in _FLAGS.items()}
    return {option: value for option, value in given.items() if value is not None and value is not False}


def cleaning_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return what `ovseg.result.cleaning.Cleaning` takes."""
    return {"min_score": args.min_score, "min_area": args.min_area, "fill_holes": args.fill_holes}
