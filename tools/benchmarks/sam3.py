"""What SAM 3 costs, with random weights of released size: the image, texts, phrases together and one by one, labels."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import CPU, PeakMemory, positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.new_words import words_of_all_lengths
from ovseg.clip.folders import read_json
from ovseg.clip.hf.package import import_transformers
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.meta_arch.sam3.asking import Budget, Seen, ask
from ovseg.meta_arch.sam3.fusion import Fusion
from ovseg.meta_arch.sam3.labels import Race, Thresholds
from ovseg.meta_arch.sam3.model import SAM3
from ovseg.meta_arch.sam3.network import Sam3Network, build_network
from ovseg.meta_arch.sam3.objects import ObjectRule
from ovseg.meta_arch.sam3.texts import unpack
from ovseg.ops.linear_layers import fast_products

FASTER, OF_THE_RATE, AGREE = 1.4, 0.8, 1e-3
MATMUL = 2048  # side of the matrices by whose product the machine is measured
GB = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--phrases", default="20", help="numbers of phrases, such as 20,150 (%(default)s)")
    parser.add_argument("--alone", type=positive, default=2, help="phrases of the first round asked one by one, too")
    parser.add_argument("--seconds", type=positive, default=400, help="after which no round begins (%(default)s)")
    parser.add_argument("--size", default="1024x768", help="of the photograph, width x height (%(default)s)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="config.json of another size than the released one")
    parser.add_argument(
        "--max-memory", type=float, default=4.0, help="GB that phrases may take at a time (%(default)s)"
    )
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    before, end = check_report_arguments(args), time.monotonic() + args.seconds
    torch.manual_seed(0)
    model = build(build_network(read_json(args.config) if args.config else {}, "SAM 3"), args.max_memory)
    wide, high = map(int, args.size.split("x"))
    photo = torch.randint(0, 256, (3, model.clip.side, model.clip.side), dtype=torch.uint8)
    best = rate()
    figures = [Figure("products of matrices", best, "GMAC/s")]
    with PeakMemory(CPU) as memory, torch.inference_mode():
        seconds, encoded = timed(lambda: model.encode([photo]))
    figures += [Figure("image", seconds, "s"), Figure("image, peak memory", memory.extra / GB, "GB")]
    with torch.inference_mode():
        seconds, theirs = timed(lambda: Alone(model.clip, photo))
    figures += [Figure("image, by transformers", seconds, "s")]
    work = counted(model, encoded.images[0])
    figures += [Figure("a phrase, multiply-adds", work, "GMAC")]
    for count in map(int, args.phrases.split(",")):
        asked = Asked(model, encoded.images[0], theirs, words_of_all_lengths()[:count], (high, wide))
        figures += asked.measure(args.alone, end, work / best)
    return report("SAM 3, random weights", figures, args, before)


def build(network: Sam3Network, max_memory: float) -> SAM3:
    """Build a model as it is shipped around a network."""
    parts = (Fusion(), Thresholds(), ObjectRule(), SizeRule(1, 1, "photo"))
    whole = Protocol(0, 0, "none")
    return SAM3(network, *parts, whole, "none", "none", budget=Budget(max_memory=max_memory)).eval()


def rate() -> float:
    """Return the best rate of products of matrices in GMAC/s."""
    left, right = torch.randn(2, MATMUL, MATMUL)
    return MATMUL**3 / min(timed(lambda: left @ right)[0] for _ in range(5)) / 1e9


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that work takes, and what it returns."""
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


@torch.inference_mode()
def counted(model: SAM3, seen: Seen) -> float:
    """Return the GMAC of a phrase besides the masks that count; attention is counted as transformers' layers do it."""
    rows, (part,) = read(model, ["a phrase"]), torch.arange(1).split(1)
    with FlopCounterMode(display=False) as flops:
        list(ask(model.clip, seen, rows, part, model.fusion, model.budget, False))
    return flops.get_total_flops() / 2 / 1e9


def read(model: SAM3, names: list[str]) -> Tensor:
    """Read phrases, none of which is known: their rows."""
    return model.reader.read(names, None)


class Asked:
    """Phrases that an image is asked for."""

    def __init__(self, model: SAM3, seen: Seen, theirs: Alone, names: list[str], size: tuple[int, int]) -> None:
        """Read them."""
        read(model, ["warm up"])
        self.model, self.seen, self.theirs, self.size, self.count = model, seen, theirs, size, len(names)
        self.seconds, self.rows = timed(lambda: read(model, names))
        self.together, self.alone, self.labels, self.apart, self.done = [], [], [], 0.0, 0

    @torch.inference_mode()
    def measure(self, alone: int, end: float, at_best: float) -> list[Figure]:
        """Ask round by round, in turn with some alone as transformers does, and label.

        Args:
            alone: Phrases of the first round that are asked alone; of the others it is one.
            end: When no other round begins, as `time.monotonic` has it.
            at_best: Seconds of a phrase at the rate of products of matrices.
        """
        model, every = self.model, torch.arange(self.count)
        answers = ask(model.clip, self.seen, self.rows, every, model.fusion, model.budget, model.fusion.uses_masks)
        with PeakMemory(CPU) as memory:
            race = Race(model.canvas(self.seen, (model.clip.side,) * 2, self.size), model.fusion, every, CPU, False)
            while self.done < self.count and (not self.done or time.monotonic() < end):
                with fast_products(CPU):  # as where a model answers
                    taken, (part, maps) = timed(lambda: next(answers))
                    self.labels.append(timed(lambda part=part, maps=maps: race.add(part, maps))[0])
                self.together.append(taken)
                for row in part[:: max(1, len(part) // alone)][: 1 if self.done else alone].tolist():
                    taken, semantic = timed(lambda row=row: self.theirs(self.rows[row : row + 1]))
                    self.alone.append(taken)
                    self.apart = max(self.apart, float((semantic - maps[0].semantic[row - int(part[0])]).abs().max()))
                self.done += len(part)
        return self.figures(at_best, memory)

    def figures(self, at_best: float, memory: PeakMemory) -> list[Figure]:
        """Return what was measured; what all phrases take is by those that ran."""
        name, share = f"{self.count} phrases", self.count / self.done
        each, batched = statistics.median(self.alone), sum(self.together) / self.done
        high, wide = self.size
        return [
            Figure(f"{name}: texts", self.seconds, "s"),
            Figure(f"{name}: that ran", self.done, ""),
            Figure(f"{name}: together", sum(self.together) * share, "s"),
            Figure(f"{name}: labels of {wide} x {high} pixels", sum(self.labels) * share, "s"),
            Figure(f"{name}: a phrase", batched, "s"),
            Figure(f"{name}: of the rate of products of matrices", 100 * at_best / batched, "%"),
            Figure(f"{name}: a phrase alone, by transformers ({len(self.alone)} of them)", each, "s"),
            Figure(
                f"{name}: times faster",
                each / batched,
                "x",
                None if at_best / batched >= OF_THE_RATE else FASTER,
                at_least=True,
            ),
            Figure(f"{name}: semantic logits apart by", self.apart, "", AGREE),
            Figure(f"{name}: peak memory", memory.extra / GB, "GB"),
        ]


class Alone:
    """transformers' own model, asked one phrase at a time about an image that it has seen."""

    def __init__(self, network: Sam3Network, photo: Tensor) -> None:
        """Look at the image."""
        output = import_transformers("the benchmark", "sam3").modeling_outputs.BaseModelOutputWithPooling
        self.network, self.output = network, output
        self.seen = network.model.get_vision_features(pixel_values=network.normal(photo[None]))

    def __call__(self, row: Tensor) -> Tensor:
        """Return the semantic logits (h, w) of a phrase (1, ...), with the geometry token."""
        tokens, mask = unpack(row, self.network.channels)
        found = self.network.model(
            vision_embeds=self.seen,
            text_embeds=self.output(pooler_output=tokens),
            attention_mask=mask,
            input_boxes=torch.zeros(1, 1, 4),
            input_boxes_labels=torch.full((1, 1), -10),
        )
        return found.semantic_seg[0, 0]
