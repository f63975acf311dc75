r"""Train the two light heads of CLIP-DINOiser on a frozen CLIP, by the published schedule unless told otherwise.

As published: 1000 photographs without labels, DINO and FOUND as teachers:
    python tools/train_clip_dinoiser.py data/imagenet --saliency found:decoder_weights.pt

On Scenes with the embedded CLIP, class-agnostic masks as teachers of both (how its shipped heads were made):
    ovseg datasets scenes --splits train --count 800 --seed 1 --output data/scenes_heads
    python tools/train_clip_dinoiser.py data/scenes_heads/train --clip mini --guide masks --saliency masks --gamma 0.5 \
        --dim 64 --crop 128 --images 0 --batch 8 --lr 2e-3 --steps 900 --drop-at 700 --half --output runs/dinoiser_mini

The output folder gets heads.safetensors (use it as MODEL.RECALIBRATION.OPTIONS.WEIGHTS of CLIP_DINOiser), last.pt (the
layout of the original, and what a run goes on from), log.jsonl and training.png. Run the same command again to go on
after an interruption: it takes the very steps that it would have taken.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import numpy as np
import torch
from command_line import status_of
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F
from train_mini_clip import rewind

import ovseg
from ovseg.checkpoint.hashing import hash_tensors
from ovseg.checkpoint.strict import load_strict
from ovseg.clip import Context, Need, ViTClip
from ovseg.clip.normalise import normalise
from ovseg.errors import ConfigError
from ovseg.guides import Guide, build_guide
from ovseg.recalibration import build_recalibration
from ovseg.recalibration.clip_dinoiser.found import load_found
from ovseg.recalibration.clip_dinoiser.heads import LightHeads
from ovseg.recalibration.clip_dinoiser.losses import correlation_loss, objectness_loss
from ovseg.recalibration.clip_dinoiser.method import Inner
from ovseg.recalibration.clip_dinoiser.pooling import correlations
from ovseg.recalibration.clip_dinoiser.squares import Pictures
from ovseg.system import terminal
from ovseg.system.files import atomic_write, check_writable
from ovseg.system.values import changes, dump, short_hash

MASKS = "masks"
SAVE_EVERY = 100  # steps


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", type=Path, help="folder of images, searched through; for masks a split in the format of Scenes")
    add("--clip", default="ViT-B-16/laion2b_s34b_b88k", help="ARCHITECTURE/TAG-or-file of open_clip, a folder, or mini")
    add("--guide", default="timm:vit_base_patch16_224.dino", help="teacher of the correlations: a guide, or masks")
    add("--facet", default="value", help="what to take of the guide: token, query, key, value")
    add("--saliency", required=True, help="teacher of objectness: found:FILE (FOUND's decoder_weights.pt), or masks")
    add("--saliency-guide", default="timm:vit_small_patch8_224.dino", help="whose keys FOUND's head reads")
    add("--output", type=Path, default=Path("runs/clip_dinoiser"))
    add("--feats-idx", default="-3", help="block whose second norm the heads read, as the method's option; or final")
    add("--dim", type=int, default=256, help="length of the vectors whose cosines are the correlations")
    add("--kernel", type=int, default=3, help="odd side of their convolution")
    add("--gamma", type=float, default=0.2, help="cosine of the teacher from which patches belong together")
    add("--images", type=int, default=1000, help="so many are drawn from the folder, with replacement; 0 takes all")
    add("--crop", type=int, default=448, help="side in pixels")
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=5e-5, help="of the correlations")
    add("--found-lr", type=float, default=1e-2, help="of objectness")
    add("--steps", type=int, default=6300)
    add("--drop-at", type=int, default=5000, help="step from which learning rates are a tenth")
    add("--seed", type=int, default=0)
    add("--device", default="auto")
    add("--half", action="store_true", help="write heads.safetensors in half precision")
    args = parser.parse_args(argv)
    for name in ("dim", "crop", "batch", "steps"):
        if getattr(args, name) < 1:
            raise ConfigError(f"--{name} is {getattr(args, name)}; expected at least 1")
    if args.kernel < 1 or args.kernel % 2 == 0:
        raise ConfigError(f"--kernel is {args.kernel}; expected an odd number")
    return args


def make_optimizer(heads: LightHeads, lr: float, found_lr: float) -> torch.optim.AdamW:
    """Return AdamW with a learning rate for each head; ``initial_lr`` of its groups is what a schedule starts from."""
    rates = {heads.obj_proj: lr, heads.bkg_decoder: found_lr}
    return torch.optim.AdamW(
        [{"params": list(head.parameters()), "lr": rate, "initial_lr": rate} for head, rate in rates.items()]
    )


def train_step(
    heads: LightHeads,
    optimizer: torch.optim.Optimizer,
    features: Tensor,
    teacher: Tensor,
    objects: Tensor,
    gamma: float,
) -> dict[str, Tensor]:
    """Take one step.

    Args:
        heads: What is trained.
        optimizer: Of its parameters.
        features: (B, C, h, w) of the frozen CLIP.
        teacher: Correlations (B, h * w, h * w) of the teacher.
        objects: Probability (B, 1, h, w) of showing an object, of the other teacher.
        gamma: See `correlation_loss`.

    Returns:
        The losses ``correlation``, ``objectness`` and their sum ``loss``, before the step.
    """
    vectors, logits = heads(features)
    losses = {
        "correlation": correlation_loss(correlations(vectors), teacher, gamma),
        "objectness": objectness_loss(logits, objects),
    }
    losses["loss"] = losses["correlation"] + losses["objectness"]
    optimizer.zero_grad()
    losses["loss"].backward()
    optimizer.step()
    return {name: loss.detach() for name, loss in losses.items()}


class Teachers:
    """Say which patches belong together, and which show objects."""

    def __init__(self, args: argparse.Namespace, clip: ViTClip) -> None:
        """Load them.

        Raises:
            OvsegError: A teacher is unknown, or its weights cannot be had.
        """
        self.clip = clip
        self.guide = None if args.guide == MASKS else build_guide(args.guide, args.facet).to(clip.device)
        kind, _, file = args.saliency.partition(":")
        if args.saliency != MASKS and (kind != "found" or not file):
            raise ConfigError(f"--saliency is '{args.saliency}'; expected masks or found:FILE")
        self.found = None if args.saliency == MASKS else load_found(file).to(clip.device)
        self.found_guide = build_guide(args.saliency_guide, "key").to(clip.device) if self.found else None

    @property
    def use_masks(self) -> bool:
        """Whether one of them reads masks."""
        return self.guide is None or self.found is None

    def __call__(self, context: Context, segments: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Teach one batch.

        Args:
            context: Of the pass of the frozen CLIP.
            segments: (B, S, S) int64, from 0.
            objects: (B, 1, S, S) in 0..1.

        Returns:
            Correlations (B, h * w, h * w) and probabilities of objects (B, 1, h, w) on the grid of the patches.
        """
        vectors = one_hot(segments) if self.guide is None else self._features(self.guide, context)
        if self.found is not None and self.found_guide is not None:
            objects = (self.found(self._features(self.found_guide, context).float()) > 0).float()
        vectors, objects = (fit(maps, context.grid) for maps in (vectors, objects))
        return correlations(vectors), objects

    def _features(self, guide: Guide, context: Context) -> Tensor:
        """Ask a guide; one that reads CLIP itself takes a pass of its own."""
        need = guide.needs_of(self.clip.depth)
        return guide(context if need == Need() else self.clip.dense(context.images, need=need).context)


def one_hot(segments: Tensor) -> Tensor:
    """Return maps (B, R, S, S) of segments (B, S, S): vectors that are equal inside a segment, else orthogonal."""
    return F.one_hot(segments).permute(0, 3, 1, 2).float()


def fit(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Bring maps (B, C, a, b) to a grid: means where it is coarser, bilinear where it is finer."""
    if maps.shape[2] >= grid[0] and maps.shape[3] >= grid[1]:
        return F.adaptive_avg_pool2d(maps.float(), grid)
    return F.interpolate(maps.float(), grid, mode="bilinear", align_corners=False)


class Trainer:
    """One run; goes on from ``last.pt`` in its folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Load everything, start fresh or from the checkpoint.

        Raises:
            OvsegError: An argument or a file cannot be used, or the folder holds a run with other arguments.
        """
        self.args, self.step = args, 0
        self.settings = {
            key: str(value) for key, value in vars(args).items() if key not in ("output", "device", "half")
        }
        self.clip: ViTClip = ovseg.load(f"clip/{args.clip}", args.device).model.clip
        self.teachers = Teachers(args, self.clip)
        self.pictures = Pictures(args.data, self.teachers.use_masks, args.crop)
        # What the names above stand for: weights by their hashes, pictures by their names and sizes.
        modules = {"guide": self.teachers.guide, "found": self.teachers.found, "eye": self.teachers.found_guide}
        states = {name: hash_tensors(module.state_dict().items()) for name, module in modules.items() if module}
        files = [
            (path.relative_to(args.data).as_posix(), path.stat().st_size)
            for pair in self.pictures.files
            for path in filter(None, pair)
        ]
        self.settings |= {"weights": self.clip.weights_hash, "teachers": dump(states), "files": short_hash(dump(files))}
        generator = torch.Generator().manual_seed(args.seed)
        count = len(self.pictures)
        self.chosen = torch.randint(count, (args.images,), generator=generator) if args.images else torch.arange(count)
        final = args.feats_idx == "final"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(args.seed)
            width = self.clip.embed_dim if final else self.clip.width
            self.heads = LightHeads(width, args.dim, args.kernel).to(self.clip.device)
        self.optimizer = make_optimizer(self.heads, args.lr, args.found_lr)
        self.method = build_recalibration("clip_dinoiser", weights=self.heads, feats_idx=read_index(args.feats_idx))
        self.clip.handed_over(self.method)
        self.checkpoint = check_writable(args.output) / "last.pt"
        if self.checkpoint.exists():
            self._resume(torch.load(self.checkpoint, self.clip.device, weights_only=True))

    def _resume(self, saved: dict[str, Any]) -> None:
        if changed := changes(saved.get("settings", {}), self.settings):
            raise ConfigError(
                f"'{self.args.output}' holds a run of something else ({'; '.join(changed)}); choose another --output, "
                "or what it was started with"
            )
        load_strict(self.heads, saved["model_state_dict"], self.checkpoint.name, "these heads")
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, segments and objects of a step; they depend on nothing but the step and the seed."""
        size = self.args.batch
        epoch, place = divmod(step, -(-len(self.chosen) // size))
        order = torch.randperm(len(self.chosen), generator=seeded(self.args.seed, 0, epoch))
        generator = seeded(self.args.seed, 1, step)
        drawn = [self.pictures.draw(int(i), generator) for i in self.chosen[order[place * size : (place + 1) * size]]]
        images, segments, objects = (torch.stack(parts).to(self.clip.device) for parts in zip(*drawn, strict=True))
        return normalise(images, self.clip.mean, self.clip.std), segments, objects

    def train_step(self, images: Tensor, segments: Tensor, objects: Tensor) -> dict[str, float]:
        """Learn from one batch; returns losses and the learning rate of the correlations."""
        with torch.no_grad():
            context = self.clip.dense(images, self.method).context
            lesson = self.teachers(context, segments, objects)
        factor = 0.1 if self.step >= self.args.drop_at else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        losses = train_step(self.heads, self.optimizer, context.kept(Inner).features, *lesson, self.args.gamma)
        return {**{name: loss.item() for name, loss in losses.items()}, "lr": self.args.lr * factor}

    def run(self) -> None:
        """Train to the last step with a bar that says how long it will take; then write the heads and the plot."""
        path, total = self.args.output / "log.jsonl", self.args.steps
        rewind(path, self.step)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with (
            path.open("a", buffering=1) as log,
            ThreadPoolExecutor(1) as worker,
            Progress(*columns, console=terminal.console(stderr=True)) as bar,
        ):
            task = bar.add_task("training", total=total, completed=self.step)
            ready: Future[tuple[Tensor, Tensor, Tensor]] = worker.submit(self.batch, self.step)
            while self.step < total:
                batch = ready.result()
                ready = worker.submit(self.batch, min(self.step + 1, total - 1))
                row = {"step": self.step, **self.train_step(*batch)}
                log.write(json.dumps(row) + "\n")
                self.step += 1
                bar.update(task, advance=1, description=f"loss {row['loss']:.4f}")
                if self.step % SAVE_EVERY == 0 or self.step == total:
                    self.save()
        self.export()

    def save(self) -> None:
        """Write the checkpoint (atomically)."""
        state = {"epoch": self.step * self.args.batch // len(self.chosen), "model_state_dict": self.heads.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "step": self.step, "settings": self.settings}
        with atomic_write(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def export(self) -> None:
        """Write the heads and the curve of the losses."""
        from safetensors.torch import save_file

        dtype = torch.float16 if self.args.half else torch.float32
        state = {key: value.to("cpu", dtype).contiguous() for key, value in self.heads.state_dict().items()}
        with atomic_write(self.args.output / "heads.safetensors") as temporary:
            save_file(state, temporary, {"format": "pt"})
        plot(self.args.output / "log.jsonl", self.args.output / "training.png")


def seeded(*parts: int) -> torch.Generator:
    """Return a generator that depends on numbers, and on their order."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1))


def read_index(text: str) -> int | float | str:
    """Read --feats-idx: an index, a share of the depth, or a word."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def plot(log: Path, target: Path) -> None:
    """Draw both losses against the step."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for axis, key in zip(axes, ("correlation", "objectness"), strict=True):
        values = torch.tensor([row[key] for row in rows])
        smooth = values.unfold(0, min(25, len(values)), 1).mean(-1)
        axis.plot(values, color="#cccccc", linewidth=0.5)
        axis.plot(range(len(values) - len(smooth), len(values)), smooth, color="#0072b2")
        axis.set(xlabel="step", title=f"{key} loss")
    figure.savefig(target, dpi=110)
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 2 after an error that it names in one line."""
    return status_of(lambda: Trainer(parse_args(argv)).run())


if __name__ == "__main__":
    sys.exit(main())
