r"""Write the CLIP of a tuning as a folder that every method takes, perhaps blended with what it was tuned from.

python tools/save_tuned_clip.py runs/declip_mini_scenes --alpha 0.7 --output runs/declip_clip
ovseg segment photo.jpg --classes "mug, plate" --model declip/runs/declip_clip
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import ovseg
from ovseg.clip.blending import blend, save_clip
from ovseg.errors import OvsegError


def main(argv: list[str] | None = None) -> None:
    """Read, blend, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a training, or any model whose CLIP was tuned")
    parser.add_argument("--base", default="mini", help="the CLIP it was tuned from")
    parser.add_argument("--alpha", type=float, default=1.0, help="share of the tuned weights")
    parser.add_argument("--output", required=True, help="folder to write")
    args = parser.parse_args(argv)
    tuned = ovseg.load(args.run).model.clip
    original = ovseg.load(f"clip/{args.base}").model.clip
    print(save_clip(original, args.output, blend(tuned, original, args.alpha)))


if __name__ == "__main__":
    try:
        main()
    except OvsegError as error:
        sys.exit(f"error: {error}")
