"""Writes the splits of *Scenes*: images, panoptic PNG + COCO JSON, semantic PNG; deterministic from a seed.

Splits: `train` and `val` show base concepts in different compositions, `novel` concepts that no training scene has,
`photo` photographic cut-outs (Debian's stamps, GPL-2: made on your machine, not to be passed on under our licence).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

from ovseg.data.scenes.bank import Bank, build_bank, fetch_stamps, photo_bank
from ovseg.data.scenes.composer import MAX_OBJECTS, Composer, SceneBatch, draw_concepts
from ovseg.data.scenes.textures import STUFF
from ovseg.errors import InputError, unknown_name
from ovseg.system.files import atomic_write, check_writable

COUNTS = {"train": 3000, "val": 300, "novel": 150, "photo": 150}
VOID = 65535


def categories(bank: Bank) -> list[dict[str, object]]:
    """COCO categories: the things in the order of the bank (ids from 1), then the stuff classes."""
    things: list[dict[str, object]] = [
        {
            "name": c.name,
            "synonyms": c.synonyms,
            "isthing": 1,
            "supercategory": c.group,
            "split": "novel" if c.novel else "base",
        }
        for c in bank.concepts
    ]
    stuff: list[dict[str, object]] = [
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


def prepare(
    output: Path,
    splits: Sequence[str] = tuple(COUNTS),
    count: int | None = None,
    size: int = 256,
    seed: int = 0,
    cache: Path | None = None,
    stamps: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Gather the cut-outs once, then write splits, over what is there.

    Args:
        output: Folder of the data set; ``bank.safetensors`` in it holds the cut-outs.
        splits: Which of `COUNTS`; none gathers the cut-outs and stops: what training the CLIP needs.
        count: Scenes of each split; None is what `COUNTS` says.
        size: Side of a scene in pixels.
        seed: Of all that is random.
        cache: Folder for downloads; None is ``output/downloads``.
        stamps: Unpacked stamps for ``photo``; None downloads them.
        say: Takes one line for each step.

    Raises:
        UnknownNameError: There is no such split.
        InputError: The size or count is out of range, or the folder or a file is not as it should be.
        EnvironmentProblem: What is missing cannot be fetched.
    """
    for split in splits:
        if split not in COUNTS:
            raise unknown_name("split", split, COUNTS)
    if size < 32 or (count is not None and count < 1):
        raise InputError(f"--size {size} --count {count}: expected a size of at least 32 and a positive count")
    check_writable(output)
    cache, path = cache or output / "downloads", output / "bank.safetensors"
    if not path.exists():
        say("gathering cut-outs, textures and photographs ...")
        build_bank(cache, say=say).save(path)
    bank = Bank.load(path)
    say(f"{len(bank.concepts)} concepts, {len(bank.sprites)} cut-outs, {len(STUFF)} stuff classes: {path}")
    banks = dict.fromkeys(splits, bank)
    if "photo" in banks:  # first, so that what is missing is found out before the long work
        banks["photo"] = photo_bank(bank, stamps or fetch_stamps(cache / "stamps"))
        say(f"photo: {len(banks['photo'].sprites)} photographic cut-outs")
    for split, source in banks.items():
        scenes = count or COUNTS[split]
        write_split(source, split, scenes, size, seed, output)
        say(f"{split}: {scenes} scenes of {size} x {size} pixels in {output / split}")
