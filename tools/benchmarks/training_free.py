"""SCLIP in windows and PAMR at full size, random weights, beside their usual forms in plain PyTorch.

Times are in units of one plain open_clip ViT-B/16 encoding of 224 x 224 pixels, timed right before each timed call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import CPU, UNIT_ARCH, UNIT_SIZE, PeakMemory, in_fresh_process, positive, random_clip, unit_clock
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.models import KEEP_NOTHING
from benchmarks.words import plain_vocabulary, random_words
from ovseg.contract import Answer, Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.labelling.scores import ScoreRule
from ovseg.meta_arch.training_free import TrainingFree
from ovseg.recalibration import build_recalibration
from ovseg.refinement import pamr

INPUT, OUTPUT = (336, 448), (512, 683)
WINDOW, STRIDE, SCALE = 224, 112, 40.0
STEPS, DILATIONS = 10, (8, 16)
AGREEMENT = 99.9  # percent of pixels; the rest is ties within rounding


@dataclass(frozen=True)
class Task:
    """What a process of its own does."""

    what: str
    classes: int
    repeats: int
    dtype: str = "float32"


@dataclass(frozen=True)
class Limits:
    """Most units of time, and most extra memory in MB (None: no limit)."""

    units: float
    mb: float | None = None


LIMITS = {"SCLIP": Limits(6.5), "PAMR": Limits(25, 1200)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--classes", type=positive, default=150, help="classes of one name (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=7, help="timed rounds (%(default)s)")
    parser.add_argument("--plain", action="store_true", help="time the usual forms, too (minutes)")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    before = check_report_arguments(args)
    PeakMemory(CPU)
    figures: list[Figure] = []
    for what, limits in LIMITS.items():
        task = Task(what, args.classes, args.repeats)
        units = in_fresh_process(measure_time, task, what)
        memory = in_fresh_process(measure_memory, task, what, KEEP_NOTHING)
        same, plain = in_fresh_process(measure_agreement, task, what)
        figures += [
            Figure(f"{what}, time", units, "units", limits.units),
            Figure(f"{what}, extra memory", memory, "MB", limits.mb),
            Figure(f"{what}, labels as those of plain PyTorch", same, "%", AGREEMENT, at_least=True),
            *([Figure(f"{what}, plain PyTorch", plain, "units")] if args.plain else []),
        ]
    half = in_fresh_process(measure_time, Task("SCLIP", args.classes, args.repeats, "bfloat16"), "SCLIP in bf16")
    figures.append(Figure("SCLIP in bf16, time", half, "units"))
    title = f"training-free, {INPUT[0]}x{INPUT[1]} to {OUTPUT[0]}x{OUTPUT[1]}, {args.classes} classes"
    return report(title, figures, args, before)


def measure_time(task: Task) -> float:
    """Return the median of the time of a call in units."""
    clock, call = unit_clock(), make_call(task)
    call()
    rounds = []
    for _ in range(task.repeats):
        unit = clock()
        start = time.perf_counter()
        call()
        rounds.append((time.perf_counter() - start) / unit)
    return statistics.median(rounds)


def measure_memory(task: Task) -> float:
    """Return the peak of the first call above the level before it, in MB."""
    call = make_call(task)
    with PeakMemory(CPU) as memory:
        call()
    return memory.extra / 1e6


def measure_agreement(task: Task) -> tuple[float, float]:
    """Return the percentage of pixels with the label of the usual form, and its time in units (once)."""
    clock = unit_clock()
    unit, start = clock(), time.perf_counter()
    expected = PLAIN[task.what](task)
    units = (time.perf_counter() - start) / unit
    return 100 * (make_call(task)() == expected).float().mean().item(), units


def make_call(task: Task) -> Callable[[], Tensor]:
    """Return a function that makes labels (H, W)."""
    if task.what == "PAMR":
        image, maps = pamr_inputs(task.classes)
        return torch.inference_mode()(lambda: pamr(image, maps, STEPS, DILATIONS)[0].argmax(0))
    model, words = sclip(task.classes)
    model.place(CPU, getattr(torch, task.dtype))
    return lambda: label(model, photo(), OUTPUT, words)


def label(model: Any, image: Tensor, size: tuple[int, int], words: Words) -> Tensor:
    """Return the labels (H, W) of an image (3, h, w) at a size."""
    answer: Answer = model.answer(model.encode([image]), 0, size, words)
    return answer.labels


def photo() -> Tensor:
    """Return pixels (3, h, w) uint8 with structures of all sizes, always the same."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(1, 3, INPUT[0] // s, INPUT[1] // s, generator=generator) for s in (4, 16, 56)]
    mixed = sum(F.interpolate(layer, INPUT, mode="bilinear") for layer in layers)
    return (mixed[0] * 85).to(torch.uint8)


def sclip(classes: int) -> tuple[TrainingFree, Words]:
    """Build SCLIP on a random ViT-B/16, and random words for it."""
    model = TrainingFree(
        clip=random_clip(UNIT_ARCH, UNIT_SIZE),
        recalibration=build_recalibration("SCLIP"),
        size_rule=SizeRule(INPUT[0], 2048),
        protocol=Protocol(WINDOW, STRIDE, "none"),
        rule=ScoreRule(SCALE),
        templates="none",
        background="none",
    ).eval()
    return model, random_words(model, plain_vocabulary(classes))


@torch.inference_mode()
def plain_sclip(task: Task) -> Tensor:
    """Return labels (H, W) the usual way: window after window, all maps on the canvas, resized, softmax, argmax."""
    model, words = sclip(task.classes)
    texts: Any = words.embeddings
    image = model.normalise(photo()[None])
    canvas, count = torch.zeros(1, task.classes, *INPUT), torch.zeros(1, 1, *INPUT)
    for top in range(0, INPUT[0] - WINDOW + 1, STRIDE):
        for left in range(0, INPUT[1] - WINDOW + 1, STRIDE):
            area = (..., slice(top, top + WINDOW), slice(left, left + WINDOW))
            tokens = plain_features(model.clip.model.visual, image[area])
            logits = (F.normalize(tokens[:, 1:], dim=-1) @ texts.T).mT.unflatten(-1, (14, 14))
            canvas[area] += F.interpolate(logits, (WINDOW, WINDOW), mode="bilinear")
            count[area] += 1
    maps = F.interpolate(canvas / count, OUTPUT, mode="bilinear")[0]
    return (SCALE * maps).softmax(0).argmax(0)


def plain_features(visual: Any, images: Tensor) -> Tensor:
    """Return SCLIP's tokens (B, N, D) by open_clip's own blocks, the last with explicit weights of attention."""
    tokens = visual.conv1(images).flatten(2).mT
    tokens = torch.cat([visual.class_embedding.expand(len(tokens), 1, -1), tokens], dim=1)
    tokens = visual.ln_pre(tokens + visual.positional_embedding)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = block(tokens)
    packed = F.linear(last.ln_1(tokens), last.attn.in_proj_weight, last.attn.in_proj_bias)
    heads = packed.unflatten(-1, (3, last.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = sum((z @ z.mT * z.shape[-1] ** -0.5).softmax(-1) for z in heads[:2])
    tokens = tokens + last.attn.out_proj((weights @ heads[2]).transpose(1, 2).flatten(2))
    return visual.ln_post(tokens + last.mlp(last.ln_2(tokens))) @ visual.proj


def pamr_inputs(classes: int) -> tuple[Tensor, Tensor]:
    """Return an image (1, 3, H, W) and maps (1, classes, H, W) at the size of the output."""
    image = F.interpolate(photo()[None].float() / 64, OUTPUT, mode="bilinear")
    coarse = torch.rand(1, classes, 24, 32, generator=torch.Generator().manual_seed(classes))
    return image, F.interpolate(coarse, OUTPUT, mode="bilinear")


@torch.inference_mode()
def plain_pamr(task: Task) -> Tensor:
    """Return labels (H, W) by unfolded copies of all neighbours; a few classes at a time, for all do not fit."""
    image, maps = pamr_inputs(task.classes)
    unfolded = unfold(image)
    centres = image[:, :, None].expand(-1, -1, len(DILATIONS), -1, -1)
    spread = torch.cat([unfolded, centres], dim=2).std(2, keepdim=True)
    weights = (-(unfolded - image[:, :, None]).abs() / (1e-8 + 0.1 * spread)).mean(1, keepdim=True).softmax(2)
    refined = []
    for part in maps.split(8, dim=1):
        for _ in range(STEPS):
            part = (unfold(part) * weights).sum(2)
        refined.append(part)
    return torch.cat(refined, dim=1)[0].argmax(0)


def unfold(maps: Tensor) -> Tensor:
    """Return copies (B, C, N, H, W) of maps (B, C, H, W), one for each neighbour."""
    height, width = maps.shape[2:]
    copies = []
    for far in DILATIONS:
        padded = F.pad(maps, (far,) * 4, mode="replicate")
        steps = [(dy, dx) for dy in (0, far, 2 * far) for dx in (0, far, 2 * far) if (dy, dx) != (far, far)]
        copies += [padded[..., dy : dy + height, dx : dx + width] for dy, dx in steps]
    return torch.stack(copies, dim=2)


PLAIN: dict[str, Callable[[Task], Tensor]] = {"SCLIP": plain_sclip, "PAMR": plain_pamr}
