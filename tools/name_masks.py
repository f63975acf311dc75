"""Measure how well masks get their names: those of a data set, each shown to a CLIP in several ways.

    python tools/name_masks.py data/scenes/val --clip mini --looks box,cut,alpha --alpha runs/alpha/alpha.pt

The names are those of the classes that masks of the data set have, or of all categories (--all-names). Prints a table
of accuracy in percent: of all masks, of things, of stuff, and as the mean over classes; --json writes it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import torch
import torch.nn.functional as F
from named_masks import MaskSet, read_masks
from torch import Tensor

from ovseg.clip import ClipSource, Tower, load_tower
from ovseg.clip.alpha import fill
from ovseg.clip.mask_prompts import MaskPrompts
from ovseg.clip.normalise import normalise
from ovseg.clip.tokens import DENSE
from ovseg.errors import ConfigError, OvsegError, at_least
from ovseg.meta_arch.mask_classifier.looks import LOOKS, Look
from ovseg.system.files import atomic_write


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, nargs="+", help="folders with images/, panoptic/ and panoptic.json")
    add("--clip", default="mini", help="folder of a CLIP, or mini")
    add("--looks", default="box,cut", help=f"of {', '.join(LOOKS)}; with margins as in cut:0.1+0.5")
    add("--alpha", default="", help="image tower of Alpha-CLIP, for the look alpha")
    add("--prompts", default="", help="mask prompts of tools/train_mask_adapted.py, for the look prompted")
    add("--limit", type=int, default=0, help="so many masks alone; 0 is all")
    add("--all-names", action="store_true", help="names of all categories, also of those that no mask has")
    add("--json", type=Path, help="file for the numbers")
    args = parser.parse_args(argv)
    at_least("--limit", args.limit, 0)
    return args


def make(name: str, args: argparse.Namespace) -> tuple[Tower, Look]:
    """Return a CLIP and what shows masks to it, of ``look`` or ``look:margin+margin``."""
    look, _, margins = name.partition(":")
    clip = load_tower(ClipSource(folder=args.clip), {DENSE}, "name_masks")
    try:
        shown = Look(clip, look, [float(margin) for margin in margins.split("+") if margin])
    except ValueError as error:
        raise ConfigError(f"look '{name}' has margins that are no numbers; write it as cut:0.1+0.5") from error
    if shown.alpha is not None:
        if not args.alpha:
            raise ConfigError("the look alpha needs an image tower; give --alpha FILE, see tools/train_alpha.py")
        fill(shown.alpha, torch.load(args.alpha, weights_only=True, map_location="cpu"), args.alpha)
    if shown.prompts is not None:
        if not args.prompts:
            raise ConfigError(
                "the look prompted needs mask prompts; give --prompts FILE, see tools/train_mask_adapted.py"
            )
        shown.prompts = MaskPrompts.read(args.prompts, clip)
    return clip, shown.eval()


@torch.inference_mode()
def right(data: MaskSet, clip: Tower, look: Look, rows: Tensor, count: int) -> Tensor:
    """Return which of the first ``count`` masks get their own name (N,) bool."""
    found = []
    start = 0
    while start < count:
        end = start
        while end < count and data.places[end][0] == data.places[start][0]:
            end += 1
        masks = torch.stack([data.mask(index) for index in range(start, end)])
        image = normalise(data.image(start).float() / 255, clip.mean, clip.std)
        best = (look(clip, image, masks) @ rows.mT).argmax(1)
        found.append(best == torch.tensor(data.classes[start:end]))
        start = end
    return torch.cat(found)


def measure(folder: Path, name: str, args: argparse.Namespace) -> dict[str, float | str | int]:
    """Return the accuracies of one look on one data set, in percent."""
    clip, look = make(name, args)
    data = read_masks(folder, args.all_names)
    rows = F.normalize(clip.text(list(data.names)), dim=-1)
    count = min(len(data), args.limit or len(data))
    good = right(data, clip, look, rows, count).float()
    classes = torch.tensor(data.classes[:count])
    thing = torch.tensor(data.things)[classes]
    totals = torch.zeros(len(data.names)).index_add_(0, classes, good)
    counts = classes.bincount(minlength=len(data.names))
    shares = {
        "all": good.mean(),
        "things": good[thing].mean(),
        "stuff": good[~thing].mean(),
        "classes": (totals[counts > 0] / counts[counts > 0]).mean(),
    }
    percent = {key: round(100 * float(value), 1) for key, value in shares.items()}
    return {"data": folder.name, "look": name, "masks": count, "names": len(data.names), **percent}


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    args = parse_args(argv)
    rows = []
    try:
        print("| data | look | masks | names | all | things | stuff | mean over classes |\n" + "|---" * 8 + "|")
        for folder in args.data:
            for name in args.looks.split(","):
                rows.append(measure(folder, name.strip(), args))
                print("| " + " | ".join(str(value) for value in rows[-1].values()) + " |", flush=True)
        if args.json:
            with atomic_write(args.json) as temporary:
                Path(temporary).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
