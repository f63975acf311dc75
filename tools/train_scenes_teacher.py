r"""Train a small vision transformer without labels, for what DINO teaches where DINO's weights cannot be had.

The student sees one view with patches blanked out, the teacher (its running average) the other, whole: their image
tokens must choose the same prototypes (DINO, arXiv 2104.14294), and the blanked patches those that the teacher gives
the same patches (iBOT, arXiv 2111.07832). Prototypes are shared out evenly by Sinkhorn, so that nothing collapses.

    ovseg datasets scenes --splits train --output data/scenes
    python tools/train_scenes_teacher.py data/scenes/train --output runs/teacher

The output folder gets teacher.safetensors, for the guide ``timm:test_vit@runs/teacher/teacher.safetensors#stride=8``
(`ovseg.guides.timm`), and log.jsonl.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg.clip.normalise import normalise
from ovseg.data.images import IMAGE_SUFFIXES, read_image
from ovseg.errors import ConfigError, InputError, OvsegError
from ovseg.losses.clusters import sinkhorn
from ovseg.system.files import atomic_write, check_writable

TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.05


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, help="folder of images, searched through; no labels are read")
    add("--output", type=Path, default=Path("runs/scenes_teacher"))
    add("--arch", default="test_vit", help="a plain vision transformer of timm")
    add("--stride", type=int, default=8, help="pixels between patches, as the guide's #stride")
    add("--side", type=int, default=128, help="shorter side in pixels to which images are read")
    add("--crop", type=int, default=96, help="side of a view in pixels")
    add("--prototypes", type=int, default=128)
    add("--batch", type=int, default=16)
    add("--steps", type=int, default=1200)
    add("--lr", type=float, default=1e-3)
    add("--momentum", type=float, default=0.99, help="of the running average")
    add("--masked", type=float, default=0.4, help="share of the patches that are blanked out")
    add("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for name in ("stride", "side", "crop", "prototypes", "batch", "steps"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} is {getattr(args, name)}; expected at least 1")
    return args


class Network(nn.Module):
    """A backbone of timm and the prototypes that its tokens choose among."""

    def __init__(self, arch: str, stride: int, prototypes: int) -> None:
        """Build it with random weights."""
        super().__init__()
        import timm

        self.backbone: Any = timm.create_model(arch, num_classes=0, dynamic_img_size=True)
        projection = self.backbone.patch_embed.proj
        projection.stride = (stride, stride)
        width = self.backbone.embed_dim
        self.blank = nn.Parameter(torch.zeros(width))
        self.head = nn.Sequential(nn.Linear(width, 256), nn.GELU(), nn.Linear(256, 64))
        self.choices = nn.Linear(64, prototypes, bias=False)

    def forward(self, images: Tensor, masked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits (B, K) of images and (B, N, K) of their patches; ``masked`` (B, h, w) are blanked out."""
        backbone = self.backbone
        patches = backbone.patch_embed(images)
        if masked is not None:
            patches = torch.where(masked[..., None], self.blank, patches)
        tokens = backbone.norm(backbone.blocks(backbone.norm_pre(backbone._pos_embed(patches))))
        lead = backbone.num_prefix_tokens
        return self._choose(tokens[:, 0]), self._choose(tokens[:, lead:])

    def _choose(self, tokens: Tensor) -> Tensor:
        unit = F.normalize(self.head(tokens), dim=-1)
        return unit @ F.normalize(self.choices.weight, dim=-1).T


def read_pictures(folder: Path, side: int) -> Tensor:
    """Return all images of a folder (n, 3, side, side) uint8, their middle squares.

    Raises:
        InputError: There is none.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    paths = [path for path in paths if "panoptic" not in path.parts and "semantic" not in path.parts]
    if not paths:
        raise InputError(f"no images below '{folder}'; expected a folder of photographs")
    return torch.stack([_square(torch.from_numpy(read_image(path).pixels.copy()), side) for path in paths])


def _square(pixels: Tensor, side: int) -> Tensor:
    picture = pixels.permute(2, 0, 1)[None].float()
    scale = side / min(picture.shape[2:])
    size = [max(round(length * scale), side) for length in picture.shape[2:]]
    picture = F.interpolate(picture, size, mode="bilinear", antialias=True)[0]
    top, left = ((length - side) // 2 for length in size)
    return picture[:, top : top + side, left : left + side].round().clamp(0, 255).byte()


def view(pictures: Tensor, crop: int, generator: torch.Generator) -> Tensor:
    """Return a view (B, 3, crop, crop) in 0..1 of pictures: a part of it, mirrored or not, in other colours."""
    count, side = len(pictures), pictures.shape[-1]
    draw = torch.rand(6, count, generator=generator)
    share = 0.5 + 0.5 * draw[0]
    move_x, move_y = (2 * draw[1] - 1) * (1 - share), (2 * draw[2] - 1) * (1 - share)
    flip = torch.where(draw[3] < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    theta = torch.stack([torch.stack([share * flip, zero, move_x], 1), torch.stack([zero, share, move_y], 1)], 1)
    grid = F.affine_grid(theta, [count, 3, crop, crop], align_corners=False)
    found = F.grid_sample(pictures.float() / 255, grid, "bilinear", "reflection", align_corners=False)
    light = 0.7 + 0.6 * draw[4].view(-1, 1, 1, 1)
    tint = 0.9 + 0.2 * torch.rand(count, 3, 1, 1, generator=generator)
    grey = found.mean(1, keepdim=True)
    found = torch.where((draw[5] < 0.1).view(-1, 1, 1, 1), grey, found)
    return (found * light * tint).clamp(0, 1) if side else found


def shares(logits: Tensor) -> Tensor:
    """Return what a teacher's logits (N, K) choose, prototypes shared out evenly over the batch."""
    return sinkhorn(logits / TEACHER_TEMPERATURE, 3)


def distance(student: Tensor, chosen: Tensor) -> Tensor:
    """Return the cross entropy () of logits (N, K) and what they should choose (N, K)."""
    return -(chosen * (student / TEMPERATURE).log_softmax(-1)).sum(-1).mean()


def lesson(student: Network, teacher: Network, views: tuple[Tensor, Tensor], masked: Tensor) -> Tensor:
    """Return the loss () of two normalised views; patches ``masked`` (2, B, h, w) are blanked out for the student."""
    both, count = torch.cat(views), len(views[0])
    with torch.no_grad():
        images, patches = teacher(both)
        wanted = [shares(images[:count]), shares(images[count:])]
        hidden = masked.flatten(0, 1).flatten(1)
        wanted_patches = shares(patches[hidden])
    images, patches = student(both, masked.flatten(0, 1))
    across = distance(images[:count], wanted[1]) + distance(images[count:], wanted[0])
    return across / 2 + distance(patches[hidden], wanted_patches)


def main(argv: list[str] | None = None) -> None:
    """Train and write the teacher's backbone."""
    args = parse_args(argv)
    folder = check_writable(args.output)
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    pictures = read_pictures(args.data, args.side)
    student = Network(args.arch, args.stride, args.prototypes)
    teacher = copy.deepcopy(student).requires_grad_(False)
    mean, std = (tuple(student.backbone.pretrained_cfg[key]) for key in ("mean", "std"))
    optimizer = torch.optim.AdamW(student.parameters(), args.lr, weight_decay=0.04)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.steps, pct_start=0.1)
    grid = (args.crop - student.backbone.patch_embed.proj.kernel_size[0]) // args.stride + 1
    begin = time.time()
    with (folder / "log.jsonl").open("w", buffering=1, encoding="utf-8") as log:
        for step in range(args.steps):
            chosen = pictures[torch.randint(len(pictures), (args.batch,), generator=generator)]
            views = [normalise(view(chosen, args.crop, generator), mean, std) for _ in range(2)]
            masked = torch.rand(2, args.batch, grid, grid, generator=generator) < args.masked
            loss = lesson(student, teacher, (views[0], views[1]), masked)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 3.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
                    slow.lerp_(fast, 1 - args.momentum)
            if step % 20 == 0 or step + 1 == args.steps:
                log.write(json.dumps({"step": step, "loss": loss.item(), "seconds": time.time() - begin}) + "\n")
            if step % 200 == 199 or step + 1 == args.steps:
                with atomic_write(folder / "teacher.safetensors") as temporary:
                    save_file({k: v.contiguous() for k, v in teacher.backbone.state_dict().items()}, str(temporary))


if __name__ == "__main__":
    try:
        main()
    except OvsegError as error:
        sys.exit(f"error: {error}")
