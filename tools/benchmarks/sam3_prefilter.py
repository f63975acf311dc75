"""How many words the prefilter of SAM 3 keeps, and how many of those that are there it loses, on Scenes."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from ovseg.contract import Words
from ovseg.data.images import read_image
from ovseg.errors import InputError
from ovseg.meta_arch.sam3.prefilter import Prefilter, open_screen
from ovseg.vocabulary import TextCache, Vocabulary, parse_background
from ovseg.zoo import model_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="a split of Scenes, such as val")
    parser.add_argument("--images", type=positive, default=100, help="of them (%(default)s)")
    parser.add_argument("--clip", default="mini", help="folder of the CLIP that looks first (%(default)s)")
    parser.add_argument("--thresholds", default="0.0001,0.001,0.01", help="of its certainty (%(default)s)")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    before = check_report_arguments(args)
    try:
        told = json.loads((args.data / "panoptic.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{args.data}' is no split of Scenes ({error}); see `ovseg datasets scenes`") from error
    config = model_config("sam3/sam3.yaml", {"MODEL": {"CLIP": {"FOLDER": args.clip}}}).MODEL
    thresholds = [float(one) for one in args.thresholds.split(",")]
    prefilter = open_screen(config, prefilter=thresholds[0])
    if prefilter is None:
        raise InputError(f"--thresholds is {args.thresholds}; expected shares above 0")
    places = {category["id"]: place for place, category in enumerate(told["categories"])}
    words = read(prefilter, [category["name"] for category in told["categories"]])
    files = {image["id"]: image["file_name"] for image in told["images"]}
    rows, seconds, shown = prefilter.read(list(words.texts), TextCache()), 0.0, []
    for annotation in told["annotations"][: args.images]:
        there = torch.tensor(sorted({places[own["category_id"]] for own in annotation["segments_info"]}))
        pixels = read_image(args.data / "images" / files[annotation["image_id"]]).pixels
        start = time.perf_counter()
        (features,) = prefilter.see(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        seconds += time.perf_counter() - start
        shown.append((features, there))
    figures = [Figure(f"{len(words.texts)} words: the CLIP's look at an image", seconds / len(shown), "s")]
    for least in thresholds:
        figures += at(prefilter, least, shown, rows, words)
    return report(f"prefilter of SAM 3 by {prefilter.clip.name}, {len(shown)} images", figures, args, before)


def read(prefilter: Prefilter, names: list[str]) -> Words:
    """Return the words, a class each."""
    return Words(
        embeddings=torch.zeros(len(names), 1),
        query_to_class=torch.arange(len(names)),
        texts=tuple(names),
        vocabulary=Vocabulary.parse([[name] for name in names]),
        background=parse_background("none"),
        templates="none",
    )


def at(prefilter: Prefilter, least: float, shown: list[tuple[Tensor, Tensor]], rows: Tensor, words: Words) -> list[Any]:
    """Return what is kept at a threshold."""
    prefilter.least = least
    kept, found, there = 0, 0, 0
    for features, present in shown:
        chosen = prefilter.choose(features, rows, words)[0]
        kept, there = kept + len(chosen), there + len(present)
        found += int(torch.isin(present, chosen).sum())
    share = kept / len(shown) / len(words.texts)
    return [
        Figure(f"prefilter {least:g}: words that are there and asked for", 100 * found / there, "%"),
        Figure(f"prefilter {least:g}: words that are asked for", kept / len(shown), f"({100 * share:.1f} %)"),
    ]
