r"""Teach the projection of Talk2DINO by images and their captions, by the published schedule unless told otherwise.

As published, on COCO 2014 (82,783 images, five captions each), DINOv2 ViT-B/14 with registers and OpenAI's ViT-B/16:
    python tools/train_talk2dino.py annotations/captions_train2014.json train2014

Both towers are frozen, so what they say of images and captions is computed once and kept in the output folder:
heads.npy (images, heads, D) and texts.npy (captions, C), both float32. Then the folder gets head.safetensors (use it as
MODEL.WEIGHTS of a talk2dino config), last.pt (what a run goes on from) and log.jsonl. Run the same command again to go
on after an interruption: it takes the very steps that it would have taken. Images are known by their content, for which
all of them are read at each start. A head says with which activation, CLIP and backbone it was taught, and models
refuse others.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import numpy as np
import torch
from command_line import status_of
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from train_clip_dinoiser import seeded
from train_mini_clip import rewind

import ovseg
from ovseg.checkpoint.strict import load_strict
from ovseg.clip.normalise import normalise
from ovseg.data.images import read_image
from ovseg.errors import ConfigError, InputError, at_least
from ovseg.guides.timm import build_backbone
from ovseg.meta_arch.talk2dino.alignment import ALIGNMENTS, train_step
from ovseg.meta_arch.talk2dino.attention import head_tokens, look
from ovseg.meta_arch.talk2dino.head_file import Taught, hash_of, write_head
from ovseg.meta_arch.talk2dino.projection import ACTIVATIONS, Projection
from ovseg.system import terminal
from ovseg.system.device import resolve_device
from ovseg.system.files import atomic_write, check_writable, file_hash
from ovseg.system.values import changes, dump, short_hash
from ovseg.vocabulary.lengths import LimitedTower
from ovseg.vocabulary.names import shown

SAVE_EVERY = 500  # steps
TEXTS_AT_ONCE = 1024


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("captions", type=Path, help="annotations of COCO captions (JSON)")
    add("images", type=Path, help="folder of the images that they name")
    add("--clip", default="ViT-B-16/openai", help="ARCHITECTURE/TAG-or-file of open_clip, a folder, or mini")
    add("--backbone", default="vit_base_patch14_reg4_dinov2.lvd142m", help="vision transformer of timm, TAG[@FILE]")
    add("--output", type=Path, default=Path("runs/talk2dino"))
    add("--side", type=int, default=448, help="of the middle square that the backbone sees, in pixels")
    add("--hidden", type=int, default=1, help="layers behind the first")
    add("--activation", default="tanh", choices=list(ACTIVATIONS))
    add("--alignment", default="max_score", choices=list(ALIGNMENTS))
    add("--epochs", type=int, default=100)
    add("--batch", type=int, default=128, help="pairs of image and caption")
    add("--lr", type=float, default=1e-4)
    add("--seed", type=int, default=123)
    add("--device", default="auto")
    args = parser.parse_args(argv)
    for name, low in (("side", 1), ("epochs", 1), ("batch", 1), ("hidden", 0)):
        at_least(f"--{name}", getattr(args, name), low)
    if not args.lr > 0:
        raise ConfigError(f"--lr is {args.lr}; expected more than 0")
    return args


@dataclass(frozen=True)
class Pairs:
    """Captions and the images that they belong to.

    Attributes:
        files: The images that have a caption, by name.
        captions: All captions.
        image_of: Index of the image of each.
    """

    files: list[Path]
    captions: list[str]
    image_of: list[int]

    @classmethod
    def read(cls, path: Path, folder: Path) -> Pairs:
        """Read annotations in the format of COCO captions.

        Raises:
            InputError: They cannot be read, are empty, or name an image that is not there.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            names = {int(image["id"]): str(image["file_name"]) for image in data["images"]}
            rows = [(names[int(one["image_id"])], str(one["caption"]).strip()) for one in data["annotations"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"cannot read captions from '{path}' ({error}); expected JSON with images (id, file_name) and "
                "annotations (image_id, caption), as in COCO captions"
            ) from error
        if not rows:
            raise InputError(f"'{path}' has no caption; expected at least one")
        used = sorted({name for name, _ in rows})
        if absent := [name for name in used if not (folder / name).is_file()]:
            raise InputError(
                f"{len(absent)} of {len(used)} images are not in '{folder}', such as {absent[0]}; fetch them"
            )
        place = {name: index for index, name in enumerate(used)}
        return cls([folder / name for name in used], [text for _, text in rows], [place[name] for name, _ in rows])


def middle_square(pixels: np.ndarray, side: int) -> Tensor:
    """Resize an image (H, W, 3) uint8 by its short side, bicubic, and cut the middle: (3, side, side) in 0..1."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))  # in this order, as torchvision
    resized = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    top, left = (round((length - side) / 2) for length in resized.shape[:2])
    return torch.from_numpy(resized[top : top + side, left : left + side]).permute(2, 0, 1).float() / 255


class RowFile:
    """Rows that are computed once and kept on disk; an interrupted run goes on behind the last one it has noted."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        """Open a file, or make it."""
        self.note = path.with_suffix(".done")
        fresh = not (path.is_file() and self.note.is_file())
        self.rows = np.lib.format.open_memmap(path, "w+" if fresh else "r+", np.float32, None if not fresh else shape)
        self.done = 0 if fresh else int(self.note.read_text())

    def add(self, rows: Tensor) -> None:
        """Write the next rows."""
        self.rows[self.done : self.done + len(rows)] = rows.float().cpu().numpy()
        self.rows.flush()
        self.done += len(rows)
        with atomic_write(self.note) as temporary:
            temporary.write_text(str(self.done))


class Trainer:
    """One run; goes on from what is in its folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Load everything, start fresh or from the checkpoint.

        Raises:
            OvsegError: An argument or a file cannot be used, or the folder holds a run with other arguments.
        """
        self.args, self.step = args, 0
        self.pairs = Pairs.read(args.captions, args.images)
        self.device = resolve_device(args.device)
        self.clip: Any = ovseg.load(f"clip/{args.clip}", args.device).model.clip
        tag, _, file = args.backbone.partition("@")
        self.backbone: Any = build_backbone(tag, file).eval().requires_grad_(False).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            widths = (self.clip.embed_dim, self.backbone.embed_dim)
            self.projection = Projection(*widths, args.hidden, args.activation).to(self.device)
        self.optimizer = torch.optim.Adam(self.projection.parameters(), lr=args.lr)
        self.settings = {key: str(value) for key, value in vars(args).items() if key not in ("output", "device")}
        with ThreadPoolExecutor() as pool:  # by content: a replaced picture is another
            files = list(
                zip([path.name for path in self.pairs.files], pool.map(file_hash, self.pairs.files), strict=True)
            )
        self.settings |= {
            "weights": f"{self.clip.weights_hash} {hash_of(self.backbone)}",
            "pairs": short_hash(dump([files, self.pairs.captions, self.pairs.image_of])),
        }
        self.folder = check_writable(args.output)
        self.checkpoint = self.folder / "last.pt"
        if self.checkpoint.exists():
            self._resume(torch.load(self.checkpoint, self.device, weights_only=True))
        else:
            self.save()

    def _resume(self, saved: dict[str, Any]) -> None:
        if changed := changes(saved.get("settings", {}), self.settings):
            raise ConfigError(
                f"'{self.args.output}' holds a run of something else ({'; '.join(changed)}); choose another --output, "
                "or what it was started with"
            )
        load_strict(self.projection, saved["projection"], self.checkpoint.name, "this projection")
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    def images_seen(self, bar: Progress) -> np.ndarray:
        """Return what the heads of the backbone see of each image (images, heads, D)."""
        heads, own = self.backbone.blocks[-1].attn.num_heads, self.backbone.pretrained_cfg
        kept = RowFile(self.folder / "heads.npy", (len(self.pairs.files), heads, self.backbone.embed_dim))
        task = bar.add_task("images", total=len(self.pairs.files), completed=kept.done)
        while kept.done < len(self.pairs.files):
            files = self.pairs.files[kept.done : kept.done + 8]
            squares = torch.stack([middle_square(read_image(file).pixels, self.args.side) for file in files])
            with torch.inference_mode():
                kept.add(head_tokens(*look(self.backbone, normalise(squares, own["mean"], own["std"]).to(self.device))))
            bar.update(task, completed=kept.done)
        return kept.rows

    def texts_read(self, bar: Progress) -> np.ndarray:
        """Return what CLIP makes of each caption (captions, C)."""
        kept = RowFile(self.folder / "texts.npy", (len(self.pairs.captions), self.clip.embed_dim))
        if not kept.done:
            self.say_cut()
        task = bar.add_task("captions", total=len(self.pairs.captions), completed=kept.done)
        while kept.done < len(self.pairs.captions):
            kept.add(self.clip.text(self.pairs.captions[kept.done : kept.done + TEXTS_AT_ONCE]))
            bar.update(task, completed=kept.done)
        return kept.rows

    def say_cut(self) -> None:
        """Say how many captions are longer than CLIP reads; what is cut is not learnt from, as in the original."""
        if not isinstance(self.clip, LimitedTower):
            return
        limit, counts = self.clip.text_limit, self.clip.count_tokens(self.pairs.captions)
        if long := [text for text, count in zip(self.pairs.captions, counts, strict=True) if count > limit]:
            print(
                f"note: CLIP reads {limit} tokens; {len(long)} captions are longer and cut: {shown(long[0])}",
                file=sys.stderr,
            )

    def batch(self, step: int) -> list[int]:
        """Return the captions of a step; they depend on nothing but the step and the seed."""
        count, size = len(self.pairs.captions), self.args.batch
        epoch, place = divmod(step, -(-count // size))
        order = torch.randperm(count, generator=seeded(self.args.seed, 0, epoch))
        return order[place * size : (place + 1) * size].tolist()

    def run(self) -> None:
        """Compute what is missing, and train to the last step; then write the head."""
        total = self.args.epochs * -(-len(self.pairs.captions) // self.args.batch)
        path = self.folder / "log.jsonl"
        rewind(path, self.step)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with path.open("a", buffering=1) as log, Progress(*columns, console=terminal.console(stderr=True)) as bar:
            heads, texts = self.images_seen(bar), self.texts_read(bar)
            task = bar.add_task("training", total=total, completed=self.step)
            while self.step < total:
                chosen = self.batch(self.step)
                seen = torch.from_numpy(heads[[self.pairs.image_of[i] for i in chosen]]).to(self.device)
                read = torch.from_numpy(texts[chosen]).to(self.device)
                loss = train_step(self.projection, self.optimizer, read, seen, self.args.alignment)
                # The loss is tiny by its divisor; what is logged is that of a pair.
                log.write(json.dumps({"step": self.step, "loss": float(loss) * len(chosen) ** 2}) + "\n")
                self.step += 1
                bar.update(task, completed=self.step)
                if self.step % SAVE_EVERY == 0 or self.step == total:
                    self.save()
        self.export()

    def save(self) -> None:
        """Write the checkpoint (atomically)."""
        state = {"projection": self.projection.state_dict(), "optimizer": self.optimizer.state_dict()}
        with atomic_write(self.checkpoint) as temporary:
            torch.save({**state, "step": self.step, "settings": self.settings}, temporary)

    def export(self) -> None:
        """Write the head in the layout of the authors, with what it was taught with."""
        taught = Taught(self.args.activation, self.clip.weights_hash, hash_of(self.backbone))
        write_head(self.projection, taught, self.folder / "head.safetensors")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 2 after an error that it names in one line."""
    return status_of(lambda: Trainer(parse_args(argv)).run())


if __name__ == "__main__":
    sys.exit(main())
