"""What ``ovseg segment`` writes for each image, from its flags."""

from __future__ import annotations

import argparse
from typing import Any

_FLAGS = {"legend": "legend", "draw_ids": "ids", "own_ids": "own_ids", "uint8": "uint8", "palette": "palette"}
"""Options of formats by the names of flags."""


def add_format_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what is written."""
    parser.add_argument(
        "--formats",
        default="overlay,labels,report",
        help="what is written for each image: overlay, labels, report, png, dataset, archive, coco, coco_instances, "
        "coco_panoptic (default: %(default)s)",
    )
    parser.add_argument(
        "--legend",
        choices=("short", "all", "none"),
        help="classes that the legend of the overlay lists (default: short)",
    )
    parser.add_argument("--draw-ids", action="store_true", help="write the ids of the classes into the overlay")
    parser.add_argument(
        "--own-ids",
        action="store_true",
        help="values of label maps are the ids of your list (COCO categories, id2label, '7: sand'), not places in it",
    )
    parser.add_argument("--uint8", action="store_true", help="png with 8 bits: up to 255 classes, 255 = no class")
    parser.add_argument("--palette", action="store_true", help="png with 8 bits and the colours of the classes")


def format_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of formats that were given, by their names."""
    return {option: value for flag, option in _FLAGS.items() if (value := getattr(args, flag))}
