"""Build *Scenes* from public cut-outs: images, panoptic PNG + COCO JSON, semantic PNG; deterministic from a seed.

    python datasets/prepare_scenes.py --output data/scenes
    python datasets/prepare_scenes.py --output data/scenes --splits val,novel --size 384 --count 100

Splits: `train` and `val` show base concepts in different compositions, `novel` concepts that no training scene has,
`photo` photographic cut-outs (Debian's stamps, GPL-2: made on your machine, not to be passed on under our licence).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from ovseg.data.scenes.bank import Bank, build_bank, fetch_stamps, photo_bank
from ovseg.data.scenes.composer import MAX_OBJECTS, Composer, SceneBatch, draw_concepts
from ovseg.data.scenes.textures import STUFF
from ovseg.errors import InputError, OvsegError
from ovseg.system.files import atomic_write, check_writable

COUNTS = {"train": 3000, "val": 300, "novel": 150, "photo": 150}
VOID = 65535
RULES = Path(__file__).with_name("scenes_concepts.json")


def categories(bank: Bank) -> list[dict[str, object]]:
    """COCO categories: the things in the order of the bank (ids from 1), then the stuff classes."""
    things = [
        {
            "name": c.name,
            "synonyms": c.synonyms,
            "isthing": 1,
            "supercategory": c.group,
            "split": "novel" if c.novel else "base",
        }
        for c in bank.concepts
    ]
    stuff = [
        {"name": n, "synonyms": s, "isthing": 0, "supercategory": "stuff", "split": "base"} for n, s in STUFF.items()
    ]
    return [{"id": i, **category} for i, category in enumerate(things + stuff, 1)]


def concept_pool(bank: Bank, split: str) -> torch.Tensor:
    """The concepts that may occur in a split."""
    owned = set(bank.sprite_concept.tolist())
    wanted = [i for i, concept in enumerate(bank.concepts) if split == "photo" or concept.novel == (split == "novel")]
    return torch.tensor([i for i in wanted if i in owned])


def compose(composer: Composer, pool: torch.Tensor, split: str, index: int, seed: int) -> SceneBatch:
    """One scene; it depends on nothing but the split, its index and the seed."""
    split_seed = int.from_bytes(split.encode()[:4], "big")
    generator = torch.Generator().manual_seed((seed * 7919 + split_seed) * 100_003 + index)
    count = torch.randint(1, MAX_OBJECTS, (1,), generator=generator)
    return composer(draw_concepts(pool, count, MAX_OBJECTS, generator), generator)


def annotate(scene: SceneBatch, things: int) -> tuple[np.ndarray, np.ndarray, list[dict[str, object]]]:
    """Turn one scene into its panoptic id map (H, W), semantic map (H, W; category id - 1, 65535 void) and segments."""
    instances, stuff = scene.instances[0].cpu().numpy(), scene.stuff[0].cpu().numpy()
    concepts = scene.concepts[0].numpy()
    semantic = np.where(stuff >= 0, stuff + things, VOID)
    semantic = np.where(instances > 0, np.append(concepts, 0)[instances - 1], semantic)
    panoptic = np.where(instances > 0, instances, np.where(stuff >= 0, 100 + stuff, 0))
    segments = []
    for segment_id in np.unique(panoptic[panoptic > 0]):
        mask = panoptic == segment_id
        ys, xs = np.nonzero(mask)
        box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
        category = int(semantic[ys[0], xs[0]]) + 1
        segments.append(
            {"id": int(segment_id), "category_id": category, "area": int(mask.sum()), "bbox": box, "iscrowd": 0}
        )
    return panoptic, semantic.astype(np.uint16), segments


def write_split(bank: Bank, split: str, count: int, size: int, seed: int, root: Path) -> None:
    """Write one split under `root`, over what is there; the JSON comes last."""
    folders = [check_writable(root / split / kind) for kind in ("images", "panoptic", "semantic")]
    composer, pool = Composer(bank, size), concept_pool(bank, split)
    images, annotations = [], []
    for index in track(range(count), f"{split:>6}", disable=not sys.stderr.isatty()):
        scene = compose(composer, pool, split, index, seed)
        panoptic, semantic, segments = annotate(scene, len(bank.concepts))
        name = f"{split}_{index:05d}"
        pixels = (scene.images[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
        rgb = np.stack([panoptic % 256, panoptic // 256, panoptic * 0], -1).astype(np.uint8)
        with atomic_write(folders[0] / f"{name}.jpg") as temporary:
            Image.fromarray(pixels).save(temporary, quality=93)
        for folder, array in ((folders[1], rgb), (folders[2], semantic)):
            with atomic_write(folder / f"{name}.png") as temporary:
                Image.fromarray(array).save(temporary)
        images.append({"id": index, "file_name": f"{name}.jpg", "height": size, "width": size})
        annotations.append({"image_id": index, "file_name": f"{name}.png", "segments_info": segments})
    info = {"description": "Scenes", "version": "1", "seed": seed, "size": size}
    text = {"info": info, "images": images, "annotations": annotations, "categories": categories(bank)}
    with atomic_write(root / split / "panoptic.json") as temporary:
        temporary.write_text(json.dumps(text))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read and check the command line.

    Raises:
        InputError: A split is unknown, or the size or count is out of range.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("data/scenes"))
    parser.add_argument("--cache", type=Path, help="folder for downloads (default: OUTPUT/downloads)")
    parser.add_argument(
        "--stamps", type=Path, help="unpacked stamps folder for `photo` (default: downloaded with apt-get)"
    )
    parser.add_argument("--splits", default="train,val,novel,photo", help="comma separated")
    usual = ", ".join(f"{count} {split}" for split, count in COUNTS.items())
    parser.add_argument("--count", type=int, help=f"scenes per split (default: {usual})")
    parser.add_argument("--size", type=int, default=256, help="side of a scene in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only-bank", action="store_true", help="gather the cut-outs and stop: what training the CLIP needs"
    )
    args = parser.parse_args(argv)
    args.splits = [split.strip() for split in args.splits.split(",")]
    unknown = [split for split in args.splits if split not in COUNTS]
    if unknown:
        raise InputError(f"unknown split '{unknown[0]}'; expected some of {', '.join(COUNTS)}, separated by commas")
    if args.size < 32 or (args.count is not None and args.count < 1):
        raise InputError(
            f"--size {args.size} --count {args.count}: expected a size of at least 32 and a positive count"
        )
    return args


def prepare(args: argparse.Namespace) -> None:
    """Gather the bank once, then write the splits.

    Raises:
        OvsegError: The output folder, the network or a file is not as it should be.
    """
    splits = [] if args.only_bank else args.splits
    check_writable(args.output)
    cache, path = args.cache or args.output / "downloads", args.output / "bank.safetensors"
    if not path.exists():
        print("gathering cut-outs, textures and photographs ...", flush=True)
        build_bank(cache, RULES).save(path)
    bank = Bank.load(path)
    print(f"{len(bank.concepts)} concepts, {len(bank.sprites)} cut-outs, {len(STUFF)} stuff classes: {path}")
    banks = dict.fromkeys(splits, bank)
    if "photo" in banks:  # first, so that what is missing is found out before the long work
        banks["photo"] = photo_bank(bank, args.stamps or fetch_stamps(cache / "stamps"))
        print(f"photo: {len(banks['photo'].sprites)} photographic cut-outs")
    for split, source in banks.items():
        count = args.count or COUNTS[split]
        write_split(source, split, count, args.size, args.seed, args.output)
        print(f"{split}: {count} scenes of {args.size} x {args.size} pixels in {args.output / split}", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 2 after an error that it names in one line."""
    try:
        prepare(parse_args(argv))
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
