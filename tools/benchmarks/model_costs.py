"""What the models of the zoo cost, with random weights of full size: the numbers of docs/models.md.

Each model runs in a process of its own: what `words`, `encode` and `answer` need for one random image, beside plain
image encodings of open_clip that are timed in turn. Where little is seen by random weights, little is labelled: masks
and maps are computed all the same. Models that are not built from a config and a CLIP alone are left out by name.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from rich.table import Table
from torch.nn import functional as F

from benchmarks.common import CPU, MIB, PeakMemory, in_fresh_process, positive, ratio, unit_clock
from benchmarks.stages import fill
from ovseg.checkpoint.loading import Weights
from ovseg.contract import Words
from ovseg.meta_arch.trained_model import TrainedModel
from ovseg.system import terminal
from ovseg.system.files import atomic_write, check_writable
from ovseg.vocabulary import ClassEntry, Vocabulary, parse_background
from ovseg.zoo import Card, list_models, model_config

PROMISE = "clip.model.logit_scale"  # weights that bring a CLIP along, so that none is fetched


@dataclass(frozen=True)
class Case:
    """A model of the zoo, the side of a square image in pixels, how many words, and timed rounds."""

    model: str
    size: int
    classes: int
    repeats: int


@dataclass(frozen=True)
class Cost:
    """What a model costs.

    Attributes:
        model: Its name.
        units: Time from pixels to labels as a multiple of the unit.
        seconds: The same.
        memory_mib: Peak above the level before.
        parameters: How many numbers its weights are.
    """

    model: str
    units: float
    seconds: float
    memory_mib: float
    parameters: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--models", default="", help="comma separated names of the zoo; all that can be measured")
    parser.add_argument("--size", type=positive, default=640, help="side of the square image in pixels (%(default)s)")
    parser.add_argument("--classes", type=positive, default=150, help="words (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, help="timed rounds (%(default)s)")
    parser.add_argument("--machine", default="", help="what to call the machine in the page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="put the numbers there; other models in it stay")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    if args.json:
        check_writable(args.json.parent)
    names = args.models.split(",") if args.models else [card.name for card in list_models() if measurable(card)]
    where = f"{args.machine or os.uname().machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
    where += f"{args.size} x {args.size}, {args.classes} words, {args.repeats} rounds, {date.today():%Y-%m-%d}"
    found = []
    for name in names:
        found.append(in_fresh_process(measure, Case(name, args.size, args.classes, args.repeats), name))
        if args.json:
            keep(args.json, where, found)
    print_table(found, where)
    return 0


def measurable(card: Card) -> bool:
    """Tell whether a model is built from its config and a CLIP alone."""
    if card.weights != "released":
        return False
    name = model_config(card.name).MODEL.META_ARCHITECTURE
    architecture = META_ARCH_REGISTRY.get(name)
    return issubclass(architecture, TrainedModel)


def build(name: str) -> Any:
    """Build a model of the zoo with random weights of full size; nothing is fetched."""
    cfg = model_config(name)
    cfg.defrost()
    cfg.MODEL.WEIGHTS, cfg.MODEL.DEVICE = "", "cpu"
    architecture: Any = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    parts = architecture.parts(cfg, Weights({PROMISE: torch.zeros(())}, "random weights"))
    fill(parts["clip"])
    return architecture(**{**parts, "weights": None}).eval()


def random_words(model: Any, count: int) -> Words:
    """Return so many classes with random embeddings, in as many templates as the model keeps apart."""
    entries = tuple(ClassEntry((f"class {i}",)) for i in range(count))
    apart = (model.decoder.prompts,) if model.templates_apart else ()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, *apart, model.clip.embed_dim, generator=generator)
    return Words(
        embeddings=F.normalize(rows, dim=-1),
        query_to_class=torch.arange(count),
        texts=tuple(entry.name for entry in entries),
        vocabulary=Vocabulary(entries),
        background=parse_background("none"),
        templates=model.default_templates,
        embedded_by=model.clip.weights_hash,
    )


@torch.inference_mode()
def measure(case: Case) -> Cost:
    """Measure one model."""
    model = build(case.model)
    words = random_words(model, case.classes)
    image = torch.randint(0, 256, (3, case.size, case.size), generator=torch.Generator().manual_seed(0)).byte()
    size = (case.size, case.size)

    def answer() -> float:
        start = time.perf_counter()
        model.answer(model.encode([image]), 0, size, words)
        return time.perf_counter() - start

    with PeakMemory(CPU) as memory:
        answer()
    encode, ours, plain = unit_clock(), [], []
    for _ in range(case.repeats):
        plain.append(encode())
        ours.append(answer())
    weights = sum(one.numel() for one in model.parameters())
    return Cost(
        case.model,
        round(ratio(ours, plain), 2),
        round(statistics.median(ours), 3),
        round(memory.extra / MIB, 1),
        weights,
    )


def keep(path: Path, where: str, found: list[Cost]) -> None:
    """Put numbers into a file; those of models that were not measured now stay with their own ``where``."""
    rows = {row["model"]: row for row in (json.loads(path.read_text())["rows"] if path.is_file() else [])}
    rows.update({cost.model: {**asdict(cost), "where": where} for cost in found})
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"rows": [rows[name] for name in sorted(rows)]}, indent=1) + "\n")


def print_table(found: list[Cost], where: str) -> None:
    """Print the numbers."""
    table = Table("model", "units", "seconds", "MiB", "parameters", title=where)
    for cost in found:
        million = f"{cost.parameters / 1e6:.0f} M"
        table.add_row(cost.model, f"{cost.units:.1f}", f"{cost.seconds:.2f}", f"{cost.memory_mib:.0f}", million)
    terminal.console().print(table)
