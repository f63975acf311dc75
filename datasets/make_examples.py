"""Compose the pictures of examples/ from cut-outs (MIT) over textures and CC0 photographs of scikit-image.

    python datasets/make_examples.py --cache data/scenes/downloads --output examples

Every picture is laid out by hand below; `examples.json` keeps the words that the demo gives each of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ovseg.data.scenes.bank import RULES, fetch_packages
from ovseg.data.scenes.concepts import read_concepts
from ovseg.data.scenes.textures import make_texture
from ovseg.errors import OvsegError
from ovseg.system.files import atomic_write, check_writable

SIZE = (640, 480)
# Ground: texture and seed above and below the horizon (share of the height), or a photograph of scikit-image.
# Objects: concept, centre x and y, width, all as shares of the picture's width and height, and degrees of rotation.
SCENES: dict[str, dict[str, object]] = {
    "picnic": {
        "ground": ("grass", 3, "grass", 3, 0.0),
        "objects": [("dog", 0.2, 0.55, 0.27, -5), ("pizza", 0.52, 0.3, 0.24, 12), ("watermelon", 0.8, 0.62, 0.25, -8)],
        "words": "dog, pizza, watermelon, grass|lawn",
    },
    "street": {
        "ground": ("sky", 4, "asphalt", 2, 0.52),
        "objects": [("bus", 0.27, 0.55, 0.33, 0), ("car", 0.7, 0.72, 0.3, 3), ("traffic light", 0.88, 0.3, 0.13, 0)],
        "words": "bus, car|automobile, traffic light, sky|blue sky, road|asphalt",
    },
    "beach": {
        "ground": ("water", 5, "sand", 1, 0.45),
        "objects": [
            ("sailboat", 0.25, 0.27, 0.24, 0),
            ("turtle", 0.32, 0.75, 0.24, 6),
            ("octopus", 0.75, 0.68, 0.25, -6),
        ],
        "words": "sailboat, turtle|tortoise, octopus, water|sea, sand|beach",
    },
    "desk": {
        "ground": ("wooden floor", 7, "wooden floor", 7, 0.0),
        "objects": [
            ("laptop", 0.3, 0.4, 0.36, 0),
            ("scissors", 0.68, 0.27, 0.19, 15),
            ("red apple", 0.78, 0.7, 0.2, -8),
        ],
        "words": "laptop, scissors, red apple|apple, wooden floor|planks",
    },
    "launch": {
        "ground": "rocket",
        "objects": [("helicopter", 0.22, 0.3, 0.24, -6), ("ufo", 0.78, 0.24, 0.24, 8)],
        "words": "helicopter, ufo|flying saucer, night sky",
    },
    "coffee": {"ground": "coffee", "objects": [], "words": "coffee cup|cup of coffee, spoon, wooden floor|planks"},
}


def background(ground: object) -> Image.Image:
    """Draw the ground of a scene at its full size."""
    if isinstance(ground, str):
        from skimage import data

        return Image.fromarray(getattr(data, ground)()).convert("RGB")
    upper, upper_seed, lower, lower_seed, horizon = ground  # type: ignore[misc]
    canvas = Image.fromarray(make_texture(upper, upper_seed)).resize(SIZE, Image.Resampling.BICUBIC)
    below = Image.fromarray(make_texture(lower, lower_seed)).resize(SIZE, Image.Resampling.BICUBIC)
    top = int(horizon * SIZE[1])
    canvas.paste(below.crop((0, top, *SIZE)), (0, top))
    return canvas


def paste(canvas: Image.Image, drawing: Image.Image, x: float, y: float, width: float, degrees: float) -> None:
    """Draw a cut-out with a soft shadow onto the canvas, centred at shares x, y of its sides."""
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    scale = width * canvas.width / drawing.width
    drawing = drawing.resize((round(drawing.width * scale), round(drawing.height * scale)), Image.Resampling.LANCZOS)
    drawing = drawing.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    place = (round(x * canvas.width - drawing.width / 2), round(y * canvas.height - drawing.height / 2))
    shadow = Image.new("L", canvas.size)
    shadow.paste(drawing.getchannel("A").point(lambda a: a * 2 // 5), (place[0] + 4, place[1] + 8))
    canvas.paste((0, 0, 0), mask=shadow.filter(ImageFilter.GaussianBlur(6)))
    canvas.paste(drawing, place, drawing)


def main() -> None:
    """Compose all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cache", type=Path, default=Path("data/scenes/downloads"), help="downloads of `ovseg datasets scenes`"
    )
    parser.add_argument("--output", type=Path, default=Path("examples"))
    args = parser.parse_args()
    check_writable(args.output)
    packages = fetch_packages(args.cache)
    concepts = {c.name: c for c in read_concepts(packages["emoji-datasource"] / "emoji.json", RULES)}
    for name, scene in SCENES.items():
        canvas = background(scene["ground"])
        for concept, *where in scene["objects"]:  # type: ignore[attr-defined]
            assets = packages["@lobehub/fluent-emoji-3d"] / "assets"
            path = next(assets / f"{s}.webp" for s in concepts[concept].images if (assets / f"{s}.webp").exists())
            paste(canvas, Image.open(path).convert("RGBA"), *where)
        with atomic_write(args.output / f"{name}.jpg") as temporary:
            Image.fromarray(np.asarray(canvas)).save(temporary, quality=92)
    with atomic_write(args.output / "examples.json") as temporary:
        temporary.write_text(
            json.dumps({f"{name}.jpg": scene["words"] for name, scene in SCENES.items()}, indent=1) + "\n"
        )


if __name__ == "__main__":
    try:
        main()
    except OvsegError as error:
        sys.exit(f"error: {error}")
