"""Train the embedded mini CLIP from scratch on Scenes: image-text contrast over whole images, no masks.

    ovseg datasets scenes --output data/scenes --only-bank
    python tools/train_mini_clip.py --bank data/scenes/bank.safetensors --minutes 110

Scenes are composed on the fly on the training device. No two scenes of a batch share an object, so that the other
captions are true negatives. Run the same command again to go on after an interruption.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout that is not installed, too

import torch
from command_line import status_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovseg.checkpoint.strict import load_strict
from ovseg.clip.normalise import normalise
from ovseg.data.scenes.bank import Bank
from ovseg.data.scenes.captions import caption
from ovseg.data.scenes.composer import Composer, draw_concepts
from ovseg.errors import ConfigError, EnvironmentProblem, InputError
from ovseg.system.device import resolve_device
from ovseg.system.files import atomic_write, check_writable, rewind
from ovseg.system.values import changes, short_hash

ASSETS = Path(__file__).resolve().parents[1] / "ovseg/assets/mini"
SLOTS = 4
SAVE_EVERY, EVALUATE_EVERY = 240, 300  # seconds


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, required=True, help="bank.safetensors of `ovseg datasets scenes`")
    parser.add_argument("--config", type=Path, default=ASSETS / "open_clip_config.json")
    parser.add_argument("--output", type=Path, default=Path("runs/mini_clip"))
    parser.add_argument("--minutes", type=float, default=110, help="training time; the schedule follows the clock")
    parser.add_argument(
        "--phases",
        default="64:0.5:0.7,96:0.4:0.25,96:0:0.05",
        help="image size : share of patches left out : share of the time",
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile the image tower (needs a C++ compiler)")
    return parser.parse_args(argv)


def build(config: dict[str, Any], size: int, dropout: float, weights: dict[str, Tensor] | None = None) -> nn.Module:
    """Build the CLIP for images of `size`, with position embeddings of `weights` resized to it.

    Leaving out random patches makes the early, long phase cheap (Li et al., FLIP, CVPR 2023, arXiv 2212.00794).

    Raises:
        WeightsError: The weights are of another config.
    """
    import open_clip

    vision = {**config["vision_cfg"], "image_size": size, "patch_dropout": dropout}
    model = open_clip.CLIP(**{**config, "vision_cfg": vision})
    if weights is not None:
        weights = dict(weights)
        open_clip.model.resize_pos_embed(weights, model)
        load_strict(model, weights, "the checkpoint", "the model of --config")
    return model


def make_optimizers(model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW without decay for embeddings, gains and biases.

    At updates of AdamW's size, Muon (Jordan et al., 2024, github.com/KellerJordan/Muon) halves the steps needed here.

    Raises:
        EnvironmentProblem: PyTorch is older than 2.9, which brought Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise EnvironmentProblem(f"torch {torch.__version__} has no Muon; training needs torch >= 2.9, update it")
    inside = {n: p for n, p in model.named_parameters() if p.ndim == 2 and "resblocks" in n}
    others = [p for n, p in model.named_parameters() if n not in inside]
    return [
        torch.optim.Muon(inside.values(), lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0),
    ]


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load moments; those of the position embedding start afresh when its size has changed."""
    optimizer.load_state_dict(state)
    for parameter, moments in list(optimizer.state.items()):
        if any(moment.ndim and moment.shape != parameter.shape for moment in moments.values()):
            del optimizer.state[parameter]


class Trainer:
    """One training run: model, optimizer, the clock and the log; resumes from ``checkpoint.pt``."""

    def __init__(self, args: argparse.Namespace) -> None:
        """Start fresh, or from the checkpoint in ``args.output``.

        Raises:
            OvsegError: An argument, the config or the bank cannot be used, or the checkpoint is of others.
        """
        self.args, self.device = args, resolve_device(args.device)
        self.phases = parse_phases(args.phases)
        self.config, self.preprocess = read_config(args.config)
        self.bank = Bank.load(args.bank)
        self.pool = torch.tensor([i for i, concept in enumerate(self.bank.concepts) if not concept.novel])
        told = {name: getattr(args, name) for name in ("phases", "batch", "lr", "weight_decay", "seed")}
        self.settings = told | {name: short_hash(getattr(args, name).read_bytes()) for name in ("bank", "config")}
        self.checkpoint = check_writable(args.output) / "checkpoint.pt"
        self.worker = ThreadPoolExecutor(1)
        self.step, self.elapsed = 0, 0.0
        torch.manual_seed(args.seed)
        saved = torch.load(self.checkpoint, "cpu", weights_only=True) if self.checkpoint.exists() else None
        if saved:
            if changed := changes(saved.get("settings", {}), self.settings):
                raise ConfigError(
                    f"'{args.output}' holds a run of something else ({'; '.join(changed)}); choose another --output, "
                    "or what it was started with"
                )
            self.step, self.elapsed = saved["step"], saved["elapsed"]
            print(f"resuming at step {self.step}, {self.elapsed / 60:.1f} minutes", flush=True)
        self._enter_phase(saved["model"] if saved else None, saved["optimizers"] if saved else [])

    @property
    def progress(self) -> float:
        """Share of the time budget that is spent, 0..1."""
        return min(self.elapsed / (60 * self.args.minutes), 1.0)

    def _phase_now(self) -> tuple[int, float]:
        """Image size and patch dropout at this moment."""
        end = 0.0
        for size, dropout, share in self.phases:
            end += share
            if self.progress < end:
                return size, dropout
        return self.phases[-1][:2]

    def _enter_phase(self, weights: dict[str, Tensor] | None, optimizer_states: list[dict[str, Any]]) -> None:
        from open_clip import SimpleTokenizer

        self.phase = self.size, dropout = self._phase_now()
        self.model = build(self.config, self.size, dropout, weights).to(self.device).train()
        self.optimizers = make_optimizers(self.model, self.args.lr, self.args.weight_decay)
        for optimizer, state in zip(self.optimizers, optimizer_states, strict=False):
            restore(optimizer, state)
        self.composer = Composer(self.bank, self.size, self.device)
        self.upcoming: Future[tuple[Tensor, Tensor]] | None = None
        self.tokenizer = SimpleTokenizer(context_length=self.config["text_cfg"]["context_length"])
        self.visual = torch.compile(self.model.visual) if self.args.compile else self.model.visual

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Compose the scenes of a step: (B, 3, S, S) normalised, and the tokens (B, L) of their captions."""
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
        size, progress = self.args.batch, self.progress
        single = 0.9 - 0.4 * min(progress / 0.6, 1.0)
        draw = torch.rand(size, generator=generator)
        many = torch.randint(2, SLOTS + 1, (size,), generator=generator)
        counts = torch.where(draw < single, 1, many)
        counts[draw > 0.9] = 0
        scenes = self.composer(draw_concepts(self.pool, counts, SLOTS, generator), generator)
        return self.normalise(scenes.images), self.tokenizer(caption(scenes, self.bank, generator)).to(self.device)

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return the batch of this step, and let the next one be composed while this one is learnt from."""
        ready = self.upcoming or self.worker.submit(self.batch, self.step)
        images, tokens = ready.result()
        self.upcoming = self.worker.submit(self.batch, self.step + 1)
        return images, tokens

    def train_step(self) -> dict[str, float]:
        """One contrastive step; returns loss, in-batch accuracy and learning rate."""
        warm = min(self.progress / 0.02, 1.0)
        lr = self.args.lr * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress)))
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = lr
        images, tokens = self.next_batch()
        # The fused CPU attention is slow in its backward pass for so few tokens.
        kernel = sdpa_kernel(SDPBackend.MATH) if self.device.type == "cpu" else contextlib.nullcontext()
        with kernel, torch.autocast(self.device.type, torch.bfloat16):
            image = F.normalize(self.visual(images).float(), dim=-1)
            text = F.normalize(self.model.encode_text(tokens).float(), dim=-1)
        logits = self.model.logit_scale.exp() * image @ text.T
        target = torch.arange(len(logits), device=self.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(100))
        return {"loss": loss.item(), "accuracy": (logits.argmax(1) == target).float().mean().item(), "lr": lr}

    def normalise(self, images: Tensor) -> Tensor:
        """Subtract CLIP's mean and divide by its deviation."""
        return normalise(images, self.preprocess["mean"], self.preprocess["std"])

    @torch.no_grad()
    def zero_shot(self, novel: bool, count: int = 256) -> float:
        """Accuracy over ALL names on fresh single-object scenes of base or novel concepts."""
        generator = torch.Generator().manual_seed(987)
        pool = torch.tensor([i for i, concept in enumerate(self.bank.concepts) if concept.novel == novel])
        concepts = draw_concepts(pool, torch.ones(count, dtype=torch.long), 1, generator)
        images = self.composer(concepts, generator).images
        names = [f"a photo of a {concept.name}." for concept in self.bank.concepts]
        self.model.eval()
        text = F.normalize(self.model.encode_text(self.tokenizer(names).to(self.device)), dim=-1)
        image = F.normalize(self.model.encode_image(self.normalise(images)), dim=-1)
        self.model.train()
        return ((image @ text.T).argmax(1).cpu() == concepts[:, 0]).float().mean().item()

    def save(self) -> None:
        """Write the checkpoint (atomically)."""
        state = {"model": self.model.state_dict(), "optimizers": [o.state_dict() for o in self.optimizers]}
        with atomic_write(self.checkpoint) as temporary:
            torch.save({**state, "step": self.step, "elapsed": self.elapsed, "settings": self.settings}, temporary)

    def run(self) -> None:
        """Train until the time is spent, logging to ``log.jsonl``; then export and plot."""
        path = self.args.output / "log.jsonl"
        rewind(path, self.step)
        last = time.monotonic()
        next_save, next_eval = self.elapsed + SAVE_EVERY, self.elapsed + EVALUATE_EVERY
        with path.open("a") as log:
            while self.progress < 1:
                if self._phase_now() != self.phase:
                    self._enter_phase(
                        self.model.state_dict(), [optimizer.state_dict() for optimizer in self.optimizers]
                    )
                entry: dict[str, float] = {"step": self.step, **self.train_step()}
                self.step += 1
                now = time.monotonic()
                self.elapsed, last = self.elapsed + now - last, now
                if self.elapsed > next_eval or self.progress >= 1:
                    entry |= {"base_accuracy": self.zero_shot(False), "novel_accuracy": self.zero_shot(True)}
                    next_eval = self.elapsed + EVALUATE_EVERY
                log.write(json.dumps({**entry, "minutes": round(self.elapsed / 60, 2), "size": self.size}) + "\n")
                if self.step % 20 == 0 or "base_accuracy" in entry:
                    log.flush()
                    print({k: round(v, 4) for k, v in entry.items()}, f"{self.elapsed / 60:.1f} min", flush=True)
                if self.elapsed > next_save or self.progress >= 1:
                    self.save()
                    next_save = self.elapsed + SAVE_EVERY
        self.export()

    def export(self) -> None:
        """Write fp16 weights and config at the size of the last phase (open_clip's layout), and the training curves."""
        from safetensors.torch import save_file

        weights = {k: v.half().cpu().contiguous() for k, v in self.model.state_dict().items() if k != "attn_mask"}
        with atomic_write(self.args.output / "open_clip_model.safetensors") as temporary:
            save_file(weights, temporary, {"format": "pt"})
        vision = {**self.config["vision_cfg"], "image_size": self.size}
        config = {"model_cfg": {**self.config, "vision_cfg": vision}, "preprocess_cfg": self.preprocess}
        with atomic_write(self.args.output / "open_clip_config.json") as temporary:
            temporary.write_text(json.dumps(config, indent=2) + "\n")
        plot(self.args.output / "log.jsonl", self.args.output / "training.png")


def parse_phases(text: str) -> list[tuple[int, float, float]]:
    """Read image size, patch dropout and share of the time of each phase.

    Raises:
        ConfigError: It is not SIZE:DROPOUT:SHARE, separated by commas.
    """
    try:
        phases = [phase.split(":") for phase in text.split(",")]
        return [(int(size), float(dropout), float(share)) for size, dropout, share in phases]
    except ValueError as error:
        raise ConfigError(
            f"--phases '{text}' cannot be read; expected SIZE:DROPOUT:SHARE, as 64:0.5:0.7,96:0:0.3"
        ) from error


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the model and the preprocessing part of an open_clip config.

    Raises:
        InputError: The file is missing or no such config.
    """
    try:
        config = json.loads(path.read_text())
        return config["model_cfg"], config["preprocess_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is no open_clip config ({error}); expected model_cfg and preprocess_cfg") from error


def plot(log: Path, target: Path) -> None:
    """Draw loss, in-batch accuracy and zero-shot accuracy against time."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6), constrained_layout=True)
    minutes = [row["minutes"] for row in rows]
    for axis, key in zip(axes, ("loss", "accuracy"), strict=False):
        values = torch.tensor([row[key] for row in rows])
        smooth = values.unfold(0, min(25, len(values)), 1).mean(-1)
        axis.plot(minutes, values, color="#cccccc", linewidth=0.5)
        axis.plot(minutes[-len(smooth) :], smooth, color="#0072b2")
        axis.set(xlabel="minutes", title={"loss": "contrastive loss", "accuracy": "in-batch accuracy"}[key])
    scored = [row for row in rows if "base_accuracy" in row]
    for key, color in (("base_accuracy", "#0072b2"), ("novel_accuracy", "#d55e00")):
        values = [row[key] for row in scored]
        axes[2].plot([row["minutes"] for row in scored], values, marker="o", color=color, label=key.split("_")[0])
    axes[2].set(xlabel="minutes", title="zero-shot accuracy over all names")
    axes[2].legend()
    figure.savefig(target, dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, or 2 after an error that it names in one line."""
    return status_of(lambda: Trainer(parse_args(argv)).run())


if __name__ == "__main__":
    sys.exit(main())
