"""What whole models that propose masks cost, in units of one plain image encoding, on the CPU.

Each model runs at full size with random weights. For each mode (fp32, packed weights, bf16, both) a process of its own
times every row, one unit before each call. Limits hold for fp32: for its time, for its memory (the peak of the first
call of another process), and for its labels, which are compared with those of a plain post-processing.

Random weights see the same everywhere: one class wins every pixel, which is neither a test of labels nor a fair time
for a post-processing that leaves out what cannot win. So between `encode` and `answer`, which run as they are, discs
take the place of masks in what the model keeps of the image, and embeddings near one word each that of those which name
them. How many labels other modes change must be measured on trained models.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F

import benchmarks.beside
from benchmarks.common import (
    CPU,
    MIB,
    UNIT,
    UNIT_ARCH,
    UNIT_SIZE,
    PeakMemory,
    in_fresh_process,
    positive,
    ratio,
    unit_clock,
)
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.models import SHIPPED, WARM_UP, import_stages
from benchmarks.words import random_words, vocabulary_with_synonyms
from ovseg.config import config_root
from ovseg.contract import INSTANCES, LABELS, PANOPTIC, Answer, Encoded, Words
from ovseg.errors import unknown_name
from ovseg.system import terminal
from ovseg.system.device import give_back

SQUARE, WIDE = (640, 640), (1080, 1920)
MODES = {"fp32": ("float32", False), "fp32 packed": ("float32", True), "bf16": ("bfloat16", False)}
MODES["bf16 packed"] = ("bfloat16", True)
PLAIN = "fp32"
NAMED = ("embeddings", "pooled")  # of what models keep of an image: by these masks are named
MIN_AGREEMENT = 99.9  # percent of pixels; the rest is ties within rounding


@dataclass(frozen=True)
class Row:
    """A model at work, and what it may cost.

    Attributes:
        name: What it is called in tables.
        config: Path of a YAML config.
        classes: Length of the class list.
        size: Height and width of the image in pixels, as the network sees it.
        output: Those of the result.
        units: Most units of time.
        memory: Most memory in MiB; None for no limit.
        original: MiB of the original implementation; its time is no matter of units, which are those of one machine.
        objects: Whether panoptic segments and instances are made, too.
    """

    name: str
    config: str
    classes: int
    size: tuple[int, int]
    output: tuple[int, int]
    units: float
    memory: int | None
    original: int
    objects: bool = False


def shipped_rows() -> list[Row]:
    """Return the rows of the shipped models."""
    san, fcclip = (str(config_root() / SHIPPED[name]) for name in ("san", "fcclip"))
    return [
        Row("SAN, 150 classes", san, 150, SQUARE, SQUARE, 4.0, 300, 826),
        Row("SAN, 847 classes", san, 847, SQUARE, SQUARE, 4.5, 350, 1924),
        Row("SAN, 847 classes, 1920x1080", san, 847, (640, 1138), WIDE, 14, 700, 8734),
        Row("FC-CLIP, labels + segments + objects", fcclip, 150, SQUARE, SQUARE, 20, 1024, 2495, True),
        Row("FC-CLIP, 847 classes", fcclip, 847, SQUARE, SQUARE, 20, None, 3550),
    ]


@dataclass(frozen=True)
class Case:
    """Rows of one config, measured in one process: in a mode, with so many timed rounds."""

    rows: tuple[Row, ...]
    mode: str
    repeats: int


@dataclass(frozen=True)
class Found:
    """What a row took: seconds of its calls, and those of the units before them.

    ``same`` is the share of pixels with the label of a plain post-processing, where it was asked for.
    """

    seconds: list[float]
    units: list[float]
    same: float | None = None


def build(config: str, mode: str) -> Any:
    """Build a model with random weights in a mode."""
    dtype, packed = MODES[mode]
    torch.manual_seed(0)  # the same weights in every process
    model = import_stages().build(config).place(CPU, getattr(torch, dtype))
    if packed:
        model.pack()
    return model


@dataclass(frozen=True)
class Scene:
    """A row ready to be measured: an image (3, h, w), the words, and what is wanted besides labels."""

    image: Tensor
    words: Words
    want: frozenset[str]


def prepare(model: Any, row: Row) -> Scene:
    """Embed the words of a row, and run a small image."""
    words = random_words(model, vocabulary_with_synonyms(row.classes))
    want = LABELS | {PANOPTIC, INSTANCES} if row.objects else LABELS
    generator = torch.Generator().manual_seed(0)
    small, image = (
        torch.randint(0, 256, (3, *size), generator=generator).byte() for size in ((WARM_UP, WARM_UP), row.size)
    )
    run_once(model, Scene(small, words, want), (WARM_UP, WARM_UP))
    return Scene(image, words, want)


def run_once(model: Any, scene: Scene, output: tuple[int, int]) -> tuple[Answer, float]:
    """Encode and answer; return the answer and the seconds, without those that it took to place discs."""
    start = time.perf_counter()
    encoded = model.encode([scene.image])
    seconds = time.perf_counter() - start
    encoded = with_discs(encoded, scene.words)
    start = time.perf_counter()
    answer = model.answer(encoded, 0, output, scene.words, scene.want)
    return answer, seconds + time.perf_counter() - start


def with_discs(encoded: Encoded, words: Words) -> Encoded:
    """Put discs in the place of the masks of an image, and embeddings near one word each in that of theirs."""
    (seen,) = encoded.images
    generator = torch.Generator().manual_seed(0)
    own = words.embeddings[torch.randint(0, len(words.embeddings), (len(seen.masks),), generator=generator)]
    named = {name: near(own, generator) for name in NAMED if name in seen._fields}
    return replace(encoded, images=(seen._replace(masks=discs(seen.masks), **named),))


def discs(masks: Tensor) -> Tensor:
    """Return mask logits (Q, h, w) of discs anywhere in the image, a tenth to a third of its height in radius."""
    high, wide = masks.shape[1:]
    places = torch.rand(len(masks), 3, generator=torch.Generator().manual_seed(0))
    y, x = torch.arange(high).view(-1, 1), torch.arange(wide)
    found = torch.empty_like(masks)
    for disc, (top, left, size) in zip(found, places.tolist(), strict=True):  # one by one: no second copy of all
        radius = (0.1 + 0.23 * size) * high
        disc.copy_(30 / high * (radius - ((y - top * high) ** 2 + (x - left * wide) ** 2).sqrt()))
    return found


def near(words: Tensor, generator: torch.Generator) -> Tensor:
    """Return embeddings (Q, D) of unit length, each with a cosine of 0.15 to 0.25 to its word (Q, D).

    With CLIP's scale that word gets most of the probability, as in trained models.
    """
    cosines = 0.15 + 0.1 * torch.rand(len(words), 1, generator=generator)
    rest = F.normalize(torch.randn(words.shape, generator=generator), dim=-1)
    return cosines * words + (1 - cosines**2).sqrt() * rest


def measure_time(case: Case) -> list[Found]:
    """Time all rows of a case, a unit before each call."""
    model, unit, found = build(case.rows[0].config, case.mode), unit_clock(), []
    for row in case.rows:
        scene = prepare(model, row)
        labels, same = run_once(model, scene, row.output)[0].labels, None
        if case.mode == PLAIN:
            same = (labels == plain_labels(model, scene, row)).float().mean().item()
        seconds, units = [], []
        for _ in range(case.repeats):
            units.append(unit())
            seconds.append(run_once(model, scene, row.output)[1])
        found.append(Found(seconds, units, same))
    return found


def measure_memory(case: Case) -> float:
    """Return the peak memory in MiB of the first call of a row, above the level before it."""
    (row,) = case.rows
    model = build(row.config, case.mode)
    scene = prepare(model, row)
    give_back(CPU)
    with PeakMemory(CPU) as peak:
        run_once(model, scene, row.output)
    return peak.extra / MIB


@torch.inference_mode()
def plain_labels(model: Any, scene: Scene, row: Row) -> Tensor:
    """Label (H, W) what a model proposes in the usual way: whole masks, then the sums of some classes at a time."""
    from ovseg.labelling import objects

    with mock.patch.object(objects, "semantic_map", wraps=objects.semantic_map) as seen:
        run_once(model, scene, row.output)
    shares, logits, resize = seen.call_args.args[:3]
    unit = model.size_divisibility
    padded = tuple(-(-side // unit) * unit for side in row.size)
    masks = _bilinear(logits.float(), padded)[:, : row.size[0], : row.size[1]]
    if resize.rows_after is not None:  # classes are resized, not masks
        masks = masks.sigmoid()
    masks = _bilinear(masks, row.output)
    masks = masks if resize.rows_after is not None else masks.sigmoid()
    best, labels = torch.full(row.output, -torch.inf), torch.zeros(row.output, dtype=torch.int32)
    for start in range(0, row.classes, 16):
        sums, index = torch.einsum("qc,qhw->chw", shares[:, :-1].float()[:, start : start + 16], masks).max(0)
        labels = torch.where(sums > best, index.int() + start, labels)
        best = torch.maximum(best, sums)
    return labels


def _bilinear(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows whose name has this in it")
    parser.add_argument("--modes", default=",".join(MODES), help="comma separated (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, help="timed calls after the first (%(default)s)")
    benchmarks.beside.add_arguments(parser)
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    PeakMemory(CPU)
    before, modes = check_report_arguments(args), args.modes.split(",")
    if args.against:
        with terminal.console().status("measuring ...") as status:
            return benchmarks.beside.compare(args.against, args.rows, args.repeats, args.json, status.update)
    for mode in modes:
        if mode not in MODES:
            raise unknown_name("mode", mode, MODES)
    rows = [row for row in shipped_rows() if args.rows in row.name]
    if not rows:
        raise unknown_name("row", args.rows, [row.name for row in shipped_rows()])
    with terminal.console().status("measuring ...") as status:
        figures = measure(rows, modes, args.repeats, status.update)
    return report(f"in units of one {UNIT} of {UNIT_ARCH} at {UNIT_SIZE} px", figures, args, before)


def measure(rows: list[Row], modes: list[str], repeats: int, tell: Callable[[str], Any]) -> list[Figure]:
    """Measure rows in modes, each in processes of its own, telling what is under way."""
    figures = list[Figure]()
    for mode in modes:
        for config in dict.fromkeys(row.config for row in rows):
            own = tuple(row for row in rows if row.config == config)
            tell(f"{Path(config).stem}: {mode} ...")
            timed = in_fresh_process(measure_time, Case(own, mode, repeats), config)
            for row, found in zip(own, timed, strict=True):
                took, limit = ratio(found.seconds, found.units), row.units if mode == PLAIN else None
                figures.append(Figure(f"{row.name}, {mode}", took, "units", limit))
                if found.same is not None:
                    tell(f"{row.name}: memory ...")
                    memory = in_fresh_process(measure_memory, Case((row,), mode, 1), row.name)
                    figures += plain_figures(row, found.same, memory)
    return figures


def plain_figures(row: Row, same: float, memory: float) -> list[Figure]:
    """Return what is measured besides time, in the plain mode alone: memory in MiB, and labels."""
    return [
        Figure(f"{row.name}: memory (original {row.original})", memory, "MiB", row.memory),
        Figure(f"{row.name}: labels of a plain path", 100 * same, "%", MIN_AGREEMENT, at_least=True),
    ]
