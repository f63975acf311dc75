"""Adapt a CLIP to masked pictures (OVSeg): its image tower, or mask prompts alone, by named masks of a data set.

    python tools/train_mask_adapted.py data/scenes/train --stage prompts --output runs/prompts
    python tools/train_mask_adapted.py data/scenes/train --stage clip --output runs/adapted

Masks are cut out and filled up around, as OVSeg cuts its proposals out, and a batch of them is compared with the names
of its masks, both ways; pairs of the same name all count as right. ``prompts`` freezes the CLIP and gives
prompts.safetensors (MODEL.OVSeg.PROMPTS_FILE); ``clip`` tunes the image tower and gives a folder that every method
takes as its CLIP. With --test, masks of other folders are named before and after.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import torch
import torch.nn.functional as F
from named_masks import MaskSet, read_masks
from safetensors.torch import save_file
from torch import Tensor

from ovseg.clip import ClipSource, ViTClip, load_tower
from ovseg.clip.folders import folder_config
from ovseg.clip.mask_prompts import MaskPrompts
from ovseg.clip.tokens import CLASS_EMBEDDING, STREAM
from ovseg.errors import ConfigError, OvsegError, at_least
from ovseg.proposals.crops import CropRule, crop_masks
from ovseg.system.files import atomic_write

RATES = {"prompts": 0.05, "clip": 1e-4}
TESTED_AT_ONCE = 32


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, help="folder with images/, panoptic/ and panoptic.json")
    add("--stage", choices=list(RATES), default="prompts")
    add("--clip", default="mini", help="folder of a CLIP, or mini")
    add("--output", type=Path, default=Path("runs/mask_adapted"))
    add("--depth", type=int, default=3, help="of the prompts")
    add("--steps", type=int, default=400)
    add("--batch", type=int, default=32, help="masks")
    add("--lr", type=float, default=0.0, help="0: 0.05 for prompts, 0.0001 for a CLIP")
    add("--minutes", type=float, default=0.0, help="end the schedule after so many minutes; 0 is by steps alone")
    add("--test", type=Path, nargs="*", default=[], help="folders whose masks are named before and after")
    add("--limit", type=int, default=500, help="masks of each of them, evenly spread")
    add("--seed", type=int, default=7)
    args = parser.parse_args(argv)
    for name in ("steps", "batch", "limit"):
        at_least(f"--{name}", getattr(args, name), 1)
    return args


def cut(data: MaskSet, chosen: list[int], side: int) -> tuple[Tensor, Tensor]:
    """Return crops (N, 3, side, side), normalised, and their masks (N, 1, side, side)."""
    found = [crop_masks(data.image(index), data.mask(index)[None], side, CropRule()) for index in chosen]
    return torch.cat([one.regions for one in found]), torch.cat([one.masks for one in found])


def contrast(logits: Tensor, same: Tensor) -> Tensor:
    """Return the contrastive loss both ways of logits (N, N); ``same`` (N, N) bool says which pairs are right."""
    shares = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, shares) + F.cross_entropy(logits.mT, shares)) / 2


class Adaptation:
    """A CLIP, mask prompts, and what of both is trained."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Read what is there.

        Raises:
            OvsegError: The data or the CLIP cannot be used.
        """
        self.args = args
        torch.manual_seed(args.seed)
        self.draw = torch.Generator().manual_seed(args.seed)
        clip = load_tower(ClipSource(folder=args.clip), {STREAM, CLASS_EMBEDDING}, "mask adaptation")
        if not isinstance(clip, ViTClip):
            raise ConfigError(f"{clip.name} is no vision transformer of open_clip; take one")
        self.clip, self.data = clip, read_masks(args.data)
        self.prompts = MaskPrompts.for_clip(clip, args.depth if args.stage == "prompts" else 0)
        self.rows = F.normalize(clip.text(list(self.data.names)), dim=-1)
        if args.stage == "prompts":
            torch.nn.init.normal_(self.prompts.embedding, std=0.02, generator=self.draw)
            self.tuned, decay = [self.prompts.embedding], 0.0
        else:
            self.tuned, decay = [own.requires_grad_() for own in clip.tower.visual.parameters()], 0.2
        self.rate = args.lr or RATES[args.stage]
        self.optimizer = torch.optim.AdamW(self.tuned, self.rate, (0.9, 0.98), 1e-6, decay)

    def step(self, scale: float) -> float:
        """Take one step at a share of the rate; returns the loss."""
        self.optimizer.param_groups[0]["lr"] = self.rate * scale
        chosen = torch.multinomial(self.data.weights(), self.args.batch, generator=self.draw).tolist()
        crops, masks = cut(self.data, chosen, self.clip.image_size)
        classes = torch.tensor([self.data.classes[index] for index in chosen])
        seen = F.normalize(self.prompts(self.clip, crops, masks).float(), dim=-1)
        loss = contrast(self.clip.logit_scale * seen @ self.rows[classes].mT, classes == classes[:, None])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def run(self) -> None:
        """Train, and write what was learnt."""
        args, start = self.args, time.perf_counter()
        args.output.mkdir(parents=True, exist_ok=True)
        before = {folder.name: self.right(folder, plain=True) for folder in args.test}
        begin = time.perf_counter()
        with (args.output / "log.jsonl").open("w", encoding="utf-8") as log:
            for step in range(args.steps):
                minutes = (time.perf_counter() - begin) / 60
                done = max(step / args.steps, minutes / args.minutes if args.minutes else 0.0)
                if done >= 1:
                    break
                loss = self.step(
                    min(1.0, (step + 1) / 20) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())
                )
                log.write(json.dumps({"step": step, "loss": loss, "minutes": round(minutes, 2)}) + "\n")
                log.flush()
        self.save()
        for folder in args.test:
            after = self.right(folder, plain=False)
            print(f"{folder.name}: {before[folder.name]:.1%} of masks named right before, {after:.1%} after")
        print(f"{args.output}: {step + 1} steps, {(time.perf_counter() - start) / 60:.1f} minutes with the tests")

    @torch.no_grad()
    def right(self, folder: Path, plain: bool) -> float:
        """Return the share of masks of a folder that get their own name, among all names of its masks."""
        data = read_masks(folder)
        rows = F.normalize(self.clip.text(list(data.names)), dim=-1)
        count = min(self.args.limit, len(data))
        chosen = [index * len(data) // count for index in range(count)]
        right = 0
        for start in range(0, count, TESTED_AT_ONCE):
            part = chosen[start : start + TESTED_AT_ONCE]
            crops, masks = cut(data, part, self.clip.image_size)
            named = (self.prompts(self.clip, crops, None if plain else masks).float() @ rows.mT).argmax(1)
            right += int((named == torch.tensor([data.classes[index] for index in part])).sum())
        return right / count

    def save(self) -> None:
        """Write the prompts, or the CLIP as a folder that every method takes."""
        if self.args.stage == "prompts":
            with atomic_write(self.args.output / "prompts.safetensors") as path:
                save_file({"embedding": self.prompts.embedding.detach().contiguous()}, path)
            return
        shutil.copy(folder_config(self.args.clip).file, self.args.output / "open_clip_config.json")
        with atomic_write(self.args.output / "open_clip_model.safetensors") as path:
            save_file({key: value.detach().contiguous() for key, value in self.clip.model.state_dict().items()}, path)


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    try:
        Adaptation(parse_args(argv)).run()
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
