"""Teach a CLIP where to look (Alpha-CLIP): its alpha convolution and its image tower, by named masks of a data set.

    python tools/train_alpha.py data/scenes/train --clip mini --output runs/alpha

A picture with a mask shall be called what the mask shows, among the names of all classes that the masks have. Masks are
drawn by class, rare ones more often; a share of the samples is framed by a part of the picture around the mask, so that
small things are seen, too. The folder gets alpha.pt in the layout of the authors (take it as MODEL.WEIGHTS of
alpha_clip/alphaclip_mini.yaml) and log.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import torch
import torch.nn.functional as F
from named_masks import MaskSet, read_masks
from torch import Tensor

from ovseg.clip import ClipSource, ViTClip, load_tower
from ovseg.clip.alpha import AlphaTower, normalise_alpha, to_official
from ovseg.clip.normalise import normalise
from ovseg.clip.tokens import CLASS_EMBEDDING, STREAM
from ovseg.errors import ConfigError, OvsegError, at_least
from ovseg.proposals.looks import boxes_of, cut, squares
from ovseg.system.files import atomic_write

MARGINS = (1.0, 0.4, 0.2)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, help="folder with images/, panoptic/ and panoptic.json")
    add("--clip", default="mini", help="folder of a CLIP, or mini")
    add("--output", type=Path, default=Path("runs/alpha"))
    add("--steps", type=int, default=400)
    add("--batch", type=int, default=32, help="masks")
    add("--lr", type=float, default=1e-3, help="of the convolution; the tower has a tenth of it")
    add("--whole", type=float, default=0.1, help="share of samples whose mask is the whole square that is seen")
    add("--minutes", type=float, default=0.0, help="end the schedule after so many minutes; 0 is by steps alone")
    add("--bf16", action="store_true", help="products in bfloat16, which some CPUs do twice as fast")
    add("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    for name in ("steps", "batch"):
        at_least(f"--{name}", getattr(args, name), 1)
    if not 0 <= args.whole < 1:
        raise ConfigError(f"--whole is {args.whole}; expected a share in 0..1")
    return args


def batch(data: MaskSet, chosen: list[int], side: int, clip: ViTClip, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return normalised images (B, 3, side, side) and masks (B, 1, side, side) in 0..1 of some masks."""
    images, masks = [], []
    for index in chosen:
        image, mask = data.image(index), data.mask(index)
        margin = MARGINS[int(torch.randint(len(MARGINS), (), generator=draw))]
        frame = squares(boxes_of(mask[None]), tuple(mask.shape), margin)  # type: ignore[arg-type]
        both = torch.cat([image.float() / 255, mask[None].float()])
        if torch.rand((), generator=draw) < 0.5:
            both, frame = (
                both.flip(2),
                torch.stack([mask.shape[1] - frame[:, 2], frame[:, 1], mask.shape[1] - frame[:, 0], frame[:, 3]], 1),
            )
        shown = cut(both[None], frame, side)[0]
        images.append(normalise(shown[:3], clip.mean, clip.std))
        masks.append(shown[3:])
    return torch.stack(images), torch.stack(masks)


def train(args: argparse.Namespace) -> None:
    """Train, and write the image tower."""
    torch.manual_seed(args.seed)
    draw = torch.Generator().manual_seed(args.seed)
    clip = load_tower(ClipSource(folder=args.clip), {STREAM, CLASS_EMBEDDING}, "Alpha-CLIP")
    if not isinstance(clip, ViTClip):
        raise ConfigError(f"{clip.name} is no vision transformer of open_clip; take one")
    data = read_masks(args.data)
    rows = F.normalize(clip.text(list(data.names)), dim=-1)
    alpha, side = AlphaTower(clip.tower), clip.image_size
    tuned = [weight.requires_grad_() for weight in clip.tower.visual.parameters()]
    groups = [{"params": list(alpha.parameters()), "lr": args.lr}, {"params": tuned, "lr": args.lr / 10}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    rates = [group["lr"] for group in groups]
    args.output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    weights = data.weights()
    with (args.output / "log.jsonl").open("w", encoding="utf-8") as log:
        for step in range(args.steps):
            done = step / args.steps
            if args.minutes:
                done = max(done, (time.perf_counter() - start) / 60 / args.minutes)
            if done >= 1:
                break
            scale = min(1.0, (step + 1) / 20) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * scale
            chosen = torch.multinomial(weights, args.batch, generator=draw).tolist()
            images, masks = batch(data, chosen, side, clip, draw)
            wanted = torch.tensor([data.classes[index] for index in chosen])
            whole = torch.rand(len(masks), generator=draw) < args.whole
            masks[whole] = 1.0
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                embeddings = alpha(images, normalise_alpha(masks))
            logits = clip.logit_scale * F.normalize(embeddings.float(), dim=-1) @ rows.mT
            loss = F.cross_entropy(logits, wanted, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([weight for group in groups for weight in group["params"]], 1.0)
            optimizer.step()
            right = float((logits.argmax(1) == wanted).float().mean())
            seconds = round(time.perf_counter() - start, 1)
            log.write(
                json.dumps({"step": step, "loss": float(loss.detach()), "right": right, "seconds": seconds}) + "\n"
            )
            log.flush()
            if step % 50 == 49:
                save(alpha, args.output / "alpha.pt")
    save(alpha, args.output / "alpha.pt")
    print(f"{args.output / 'alpha.pt'}: {step} steps, {(time.perf_counter() - start) / 60:.1f} minutes")


def save(alpha: AlphaTower, path: Path) -> None:
    """Write the image tower in the authors' layout."""
    with atomic_write(path) as temporary:
        torch.save({key: value.detach().clone() for key, value in to_official(alpha).items()}, temporary)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    try:
        train(parse_args(argv))
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
