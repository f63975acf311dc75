"""What new words cost: texts through a text tower as ovseg runs it, and over the whole context as open_clip does."""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from ovseg.clip import ViTClip
from ovseg.clip.loading import architecture
from ovseg.clip.open_clip_internals import build_model, check_config
from ovseg.vocabulary import TextEmbedder, Vocabulary
from ovseg.vocabulary.templates import TEMPLATES, fill

LIMITS = {(20, "openai80"): 8.0, (20, "vild14"): 2.0, (847, "vild14"): 80.0}
RATIO, DIFFERENCE = 10.0, 1e-5
SAMPLE = 128  # texts of each round that go over the whole context, too


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--arch", default="ViT-B-16", help="architecture of open_clip, with random weights")
    parser.add_argument("--repeats", type=positive, default=3, help="interleaved timed rounds (%(default)s)")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    before = check_report_arguments(args)
    torch.manual_seed(0)
    config = architecture(args.arch)
    clip = ViTClip(build_model(config, args.arch, check_config), config, args.arch)
    names = words_of_all_lengths()
    clip.text(["warm up"])
    figures = [
        figure
        for (words, templates), limit in LIMITS.items()
        for figure in measure(clip, names[:words], templates, limit, args.repeats)
    ]
    return report(f"new words through the text tower of {args.arch}, nothing cached", figures, args, before)


def words_of_all_lengths() -> list[str]:
    """Return more names than any data set has: those of two presets, as they are and with adjectives before them."""
    plain = [*Vocabulary.parse("ade150").names, *Vocabulary.parse("coco171").names]
    return list(
        dict.fromkeys(f"{which}{name}" for which in ("", "small ", "very old ", "photographed ") for name in plain)
    )


def measure(clip: Any, words: list[str], templates: str, limit: float, repeats: int) -> list[Figure]:
    """Time words in all templates of a set, in turn with a sample of the same texts over the whole context."""
    prompts = [fill(template, word) for word in words for template in TEMPLATES[templates]]
    sample = prompts[:: max(1, len(prompts) // SAMPLE)][:SAMPLE]
    ours, whole = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        TextEmbedder(clip, templates).embed(words)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        expected = whole_context(clip, sample)
        whole.append((time.perf_counter() - start) / len(sample) * len(prompts))
    apart = (F.normalize(clip.text(sample), dim=1) - F.normalize(expected, dim=1)).abs().max()
    name = f"{len(words)} words x {len(TEMPLATES[templates])} templates"
    ratio = statistics.median(theirs / own for theirs, own in zip(whole, ours, strict=True))
    return [
        Figure(name, statistics.median(ours), "s", limit),
        Figure(f"{name}, over the whole context (from {len(sample)} texts)", statistics.median(whole), "s"),
        Figure(f"{name}, times faster", ratio, "x", RATIO, at_least=True),
        Figure(f"{name}, unit rows apart by", float(apart), "", DIFFERENCE),
    ]


@torch.inference_mode()
def whole_context(clip: Any, texts: list[str]) -> Tensor:
    """Embed texts by open_clip's own text tower, all positions of each."""
    rows: Tensor = clip.model.encode_text(clip.text_tokens(texts))
    return rows
