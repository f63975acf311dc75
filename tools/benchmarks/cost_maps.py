"""CAT-Seg from pixels to labels, beside a plain form of it that holds all maps at once; random weights of full size."""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import MIB, PeakMemory, positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.plain_cat_seg import PlainCatSeg, Sizes
from ovseg.clip import ViTClip
from ovseg.clip.architectures import architecture
from ovseg.clip.open_clip_internals import build_model
from ovseg.config import load_config
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.meta_arch.cat_seg.model import CATSeg
from ovseg.meta_arch.cat_seg.weights import official_name
from ovseg.meta_arch.section import Section
from ovseg.system.device import CPU
from ovseg.vocabulary import ClassEntry, Vocabulary, parse_background

ARCH, CONFIG = "ViT-B-16-quickgelu", "cat_seg/catseg-b.yaml"
RATIO, AGREE, FLAT = 1.5, 0.999, 1.25
SQUARE, WINDOW, STRIDE = 640, 384, 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--size", type=positive, default=640, help="side of the image in pixels (%(default)s)")
    parser.add_argument("--classes", type=positive, default=150, help="words of the comparison (%(default)s)")
    parser.add_argument("--most", type=positive, default=847, help="words by which memory is compared (%(default)s)")
    parser.add_argument("--repeats", type=positive, default=3, help="interleaved timed rounds (%(default)s)")
    parser.add_argument("--whole", action="store_true", help="the whole image alone, without windows")
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    before = check_report_arguments(args)
    torch.manual_seed(0)
    model = build(sliding=not args.whole)
    image = torch.randint(0, 256, (3, args.size, args.size), dtype=torch.uint8)
    figures = [*memory(model, image, args.classes, args.most), *speed(model, image, args.classes, args.repeats)]
    way = "whole" if args.whole else "sliding"
    return report(f"CAT-Seg {ARCH}, {way}, {args.size} x {args.size}, {args.classes} words", figures, args, before)


def build(sliding: bool) -> CATSeg:
    """Build the model of the shipped config with random weights."""
    cfg = load_config(CONFIG, {"MODEL": {"CATSeg": {"SLIDING": sliding}}})
    model_cfg, section = architecture(ARCH), Section(CATSeg, cfg)
    clip = ViTClip(build_model(model_cfg, ARCH), model_cfg, ARCH)
    side = section.options["resolution"] // clip.patch_size
    model = CATSeg(
        clip=clip,
        aggregator=section.make("aggregator", clip.embed_dim, (side, side), section.make("decoder")),
        sliding=section.make("sliding"),
        criterion=section.make("criterion"),
        size_rule=SizeRule(SQUARE, 4 * SQUARE),
        templates="cat_seg",
        background="none",
        **section.own,
    )
    return model.eval()


def words(model: CATSeg, count: int) -> Words:
    """Return so many classes with random embeddings."""
    entries = tuple(ClassEntry((f"class {i}",)) for i in range(count))
    return Words(
        embeddings=F.normalize(torch.randn(count, model.clip.embed_dim), dim=1),
        query_to_class=torch.arange(count),
        texts=tuple(entry.name for entry in entries),
        vocabulary=Vocabulary(entries),
        background=parse_background("none"),
        templates="cat_seg",
    )


def answer(model: CATSeg, image: Tensor, own: Words) -> Tensor:
    """Label an image by the product: (H, W)."""
    size = (image.shape[1], image.shape[2])
    return model.answer(model.encode([image]), 0, size, own).labels


@torch.inference_mode()
def plain_answer(plain: PlainCatSeg, model: CATSeg, image: Tensor, texts: Tensor) -> Tensor:
    """Label an image by the plain form: (H, W)."""
    normal, size = model.normalise(image[None]), (image.shape[1], image.shape[2])
    if model.sliding is not None:
        return plain.sliding(normal[0], texts, size, SQUARE, WINDOW, STRIDE).argmax(0)
    side = plain.sizes.resolution
    logits = plain.logits(F.interpolate(normal, (side, side), mode="bilinear", align_corners=False), texts)
    return F.interpolate(logits.sigmoid(), size, mode="bilinear", align_corners=False)[0].argmax(0)


def speed(model: CATSeg, image: Tensor, count: int, repeats: int) -> list[Figure]:
    """Time both forms in turn, and compare their labels."""
    state = {official_name(key): value for key, value in model.state_dict().items()}
    plain, own = PlainCatSeg(state, Sizes()), words(model, count)
    ours, theirs = list[float](), list[float]()
    for _ in range(repeats):
        start = time.perf_counter()
        found = answer(model, image, own)
        middle = time.perf_counter()
        expected = plain_answer(plain, model, image, own.embeddings)
        ours.append(middle - start)
        theirs.append(time.perf_counter() - middle)
    ratio = statistics.median(other / one for one, other in zip(ours, theirs, strict=True))
    same = float((found.long() == expected).float().mean())
    return [
        Figure(f"{count} words, ovseg", statistics.median(ours), "s"),
        Figure(f"{count} words, plain PyTorch", statistics.median(theirs), "s"),
        Figure(f"{count} words, times faster", ratio, "x", RATIO, at_least=True),
        Figure(f"{count} words, share of equal labels", same, "", AGREE, at_least=True),
    ]


def memory(model: CATSeg, image: Tensor, few: int, many: int) -> list[Figure]:
    """Measure the peak of an answer by few words and by many."""
    encoded, size, peaks = model.encode([image]), (image.shape[1], image.shape[2]), []
    for count in (few, many):
        own = words(model, count)
        with PeakMemory(CPU) as peak:
            model.answer(encoded, 0, size, own)
        peaks.append(peak.peak / MIB)
    return [
        Figure(f"peak of the process by {few} words", peaks[0], "MiB"),
        Figure(f"peak of the process by {many} words", peaks[1], "MiB", FLAT * peaks[0]),
    ]
