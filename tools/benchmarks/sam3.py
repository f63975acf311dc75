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

from benchmarks.common import CPU, PeakMemory, positive
from benchmarks.figures import Figure, add_report_arguments, check_report_arguments, report
from benchmarks.new_words import words_of_all_lengths
from ovseg.clip.folders import read_json
from ovseg.clip.hf.package import import_transformers
from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.labelling.protocol import Protocol
from ovseg.meta_arch.sam3.fusion import Fusion
from ovseg.meta_arch.sam3.labels import Race, Thresholds
from ovseg.meta_arch.sam3.model import SAM3, Budget
from ovseg.meta_arch.sam3.network import Sam3Network, build_network
from ovseg.meta_arch.sam3.objects import ObjectRule
from ovseg.vocabulary import Vocabulary

FASTER, AGREE = 1.4, 1e-3
MATMUL = 2048  # side of the matrices by whose product the machine is measured
GB = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("--phrases", default="20", help="numbers of phrases, such as 20,150 (%(default)s)")
    parser.add_argument(
        "--alone", type=positive, default=2, help="phrases of each round asked one by one (%(default)s)"
    )
    parser.add_argument("--size", default="1024x768", help="of the photograph, width x height (%(default)s)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="config.json of another size than the released one")
    parser.add_argument(
        "--max-memory", type=float, default=4.0, help="GB that phrases may take at a time (%(default)s)"
    )
    add_report_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print; the status is 1 where a limit does not hold."""
    before = check_report_arguments(args)
    torch.manual_seed(0)
    network = build_network(read_json(args.config) if args.config else {}, "SAM 3")
    model = build(network, args.max_memory)
    wide, high = map(int, args.size.split("x"))
    photo = torch.randint(0, 256, (3, network.side, network.side), dtype=torch.uint8)
    figures = [Figure("products of matrices", rate(), "GMAC/s")]
    with PeakMemory(CPU) as memory, torch.inference_mode():
        seconds, encoded = timed(lambda: model.encode([photo]))
    figures += [Figure("image", seconds, "s"), Figure("image, peak memory", memory.extra / GB, "GB")]
    for count in map(int, args.phrases.split(",")):
        names = words_of_all_lengths()[:count]
        figures += phrases(model, encoded.images[0], names, (high, wide), args.alone, photo)
    return report("SAM 3, random weights", figures, args, before)


def build(network: Sam3Network, max_memory: float) -> SAM3:
    """Build a model as it is shipped around a network."""
    parts = (Fusion(), Thresholds(), ObjectRule(), SizeRule(network.side, network.side, "square"))
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
def phrases(model: SAM3, seen: Any, names: list[str], size: tuple[int, int], alone: int, photo: Tensor) -> list[Figure]:
    """Ask for phrases together, in turn with some of them one by one as transformers does, and label."""
    name = f"{len(names)} phrases"
    seconds, words = timed(lambda: read(model, names))
    found = [Figure(f"{name}: texts", seconds, "s")]
    theirs = Alone(model.clip, photo)
    canvas = model.canvas(seen, (model.clip.side,) * 2, size)
    race = Race(canvas, model.fusion, words.query_to_class, CPU, False)
    together, one_by_one, labels, done, apart = [], [], [], 0, 0.0
    rows = torch.arange(len(names))
    with PeakMemory(CPU) as memory:
        answers = model.ask(seen, words, rows)
        while done < len(names):
            taken, (part, maps) = timed(lambda: next(answers))
            together.append(taken)
            labels.append(timed(lambda part=part, maps=maps: race.add(part, maps))[0])
            for row in part[:: max(1, len(part) // alone)][:alone].tolist() if done == 0 else part[:1].tolist():
                taken, semantic = timed(lambda row=row: theirs(words, row))
                one_by_one.append(taken)
                apart = max(apart, float((semantic - maps[0].semantic[row - int(part[0])]).abs().max()))
            done += len(part)
    each, batched = statistics.median(one_by_one), sum(together) / len(names)
    return [
        *found,
        Figure(f"{name}: together", sum(together), "s"),
        Figure(f"{name}: labels of {size[1]} x {size[0]} pixels", sum(labels), "s"),
        Figure(f"{name}: a phrase", batched, "s"),
        Figure(f"{name}: a phrase alone, by transformers ({len(one_by_one)} of them)", each, "s"),
        Figure(f"{name}: times faster", each / batched, "x", FASTER, at_least=True),
        Figure(f"{name}: semantic logits apart by", apart, "", AGREE),
        Figure(f"{name}: peak memory", memory.extra / GB, "GB"),
    ]


def read(model: SAM3, names: list[str]) -> Words:
    """Read phrases, none of which is known."""
    model.reader.read(["warm up"], None)
    rows = model.reader.read(names, None)
    return Words(
        embeddings=rows,
        query_to_class=torch.arange(len(names)),
        texts=tuple(names),
        vocabulary=Vocabulary.parse(names),
        background=model.default_background,
        templates="none",
    )


class Alone:
    """transformers' own model, asked one phrase at a time about an image that it has seen."""

    def __init__(self, network: Sam3Network, photo: Tensor) -> None:
        """Look at the image."""
        output = import_transformers("the benchmark", "sam3").modeling_outputs.BaseModelOutputWithPooling
        self.network, self.output = network, output
        pixels = (photo[None].float() / 255 - 0.5) / 0.5
        self.seen = network.model.get_vision_features(pixel_values=pixels)

    def __call__(self, words: Words, row: int) -> Tensor:
        """Return the semantic logits (h, w) of a phrase, with the geometry token."""
        from ovseg.meta_arch.sam3.texts import unpack

        tokens, mask = unpack(words.embeddings[row : row + 1], self.network.channels)
        found = self.network.model(
            vision_embeds=self.seen,
            text_embeds=self.output(pooler_output=tokens),
            attention_mask=mask,
            input_boxes=torch.zeros(1, 1, 4),
            input_boxes_labels=torch.full((1, 1), -10),
        )
        return found.semantic_seg[0, 0]
