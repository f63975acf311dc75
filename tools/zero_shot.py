"""Zero-shot classification of single-object Scenes over all names, base and novel concepts apart.

ovseg datasets scenes --output data/scenes --only-bank
python tools/zero_shot.py --bank data/scenes/bank.safetensors --model mini
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import torch
from torch.nn import functional as F

from ovseg.clip import ViTClip
from ovseg.clip.normalise import normalise
from ovseg.data.scenes.bank import Bank
from ovseg.data.scenes.composer import Composer, draw_concepts
from ovseg.errors import InputError, OvsegError
from ovseg.vocabulary import TextEmbedder
from ovseg.zoo import load


@torch.inference_mode()
def accuracy(clip: ViTClip, bank: Bank, novel: bool, count: int, templates: str, seed: int = 987) -> dict[str, float]:
    """Classify `count` fresh scenes of one object each by the embedding of the whole image.

    Args:
        clip: The CLIP; scenes are composed at its native size.
        bank: Cut-outs and names; every name of the bank competes.
        novel: Whether the objects are novel concepts, else base concepts.
        count: Number of scenes.
        templates: Name of a template set.
        seed: Equal seeds give equal scenes.

    Returns:
        ``top1`` and ``top5`` in 0..1, and ``chance``.
    """
    generator = torch.Generator().manual_seed(seed)
    pool = torch.tensor([i for i, concept in enumerate(bank.concepts) if concept.novel == novel])
    texts = TextEmbedder(clip, templates).embed([concept.name for concept in bank.concepts])
    composer = Composer(bank, clip.image_size)
    ranks = []
    for start in range(0, count, 100):
        concepts = draw_concepts(pool, torch.ones(min(100, count - start), dtype=torch.long), 1, generator)
        images = normalise(composer(concepts, generator).images, clip.mean, clip.std)
        logits = F.normalize(clip.dense(images).cls.float(), dim=-1) @ texts.T
        own = logits.gather(1, concepts)
        ranks.append((logits > own).sum(1))
    rank = torch.cat(ranks)
    return {
        "top1": (rank < 1).float().mean().item(),
        "top5": (rank < 5).float().mean().item(),
        "chance": 1 / len(bank.concepts),
    }


def main(argv: list[str] | None = None) -> None:
    """Print one JSON line each for base and novel concepts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, required=True, help="bank.safetensors of `ovseg datasets scenes`")
    parser.add_argument("--model", default="mini", help="any model name; its CLIP is used")
    parser.add_argument("--templates", default="simple")
    parser.add_argument("--count", type=int, default=1200, help="scenes per group")
    args = parser.parse_args(argv)
    if args.count < 1:
        raise InputError(f"--count is {args.count}; expected at least 1")
    bank, clip = Bank.load(args.bank), load(args.model, "cpu").model.clip
    for novel in (False, True):
        scores = accuracy(clip, bank, novel, args.count, args.templates)
        row = {"concepts": "novel" if novel else "base", "names": len(bank.concepts), "scenes": args.count}
        print(json.dumps({**row, **{k: round(v, 4) for k, v in scores.items()}}))


if __name__ == "__main__":
    try:
        main()
    except OvsegError as error:
        sys.exit(f"error: {error}")
