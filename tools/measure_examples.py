r"""Measure how well a class that one picture shows is found in other pictures.

    python tools/measure_examples.py --data data/scenes --models mini,mini-clearclip
    python tools/measure_examples.py --data data/scenes --splits val,novel --models mini --count 50 --with-name

For each of so many pictures of fixed seeds a thing that it shows is chosen, and an object of that class in another
picture is the example. The list has this class, known by that picture alone (with --with-name by its name, too), and 12
words: the other classes of the picture and others drawn at random. It is found where IoU with its true pixels is 0.5 or
more.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import ovseg
from ovseg.data.dataset import Dataset
from ovseg.data.examples import read_example, with_examples
from ovseg.data.images import read_image
from ovseg.data.own_data import read_folder
from ovseg.errors import OvsegError
from ovseg.vocabulary import Vocabulary

FOUND = 0.5
LEAST = 0.005
"""Share of a picture that an object has to cover, as an example and where it is sought."""


class Trial(NamedTuple):
    """A picture, a class that it shows, an example of it, and the words."""

    image: Path
    wanted: np.ndarray
    name: str
    example: tuple[Path, np.ndarray]
    words: list[str]


def trials(dataset: Dataset, count: int, distractors: int, seed: int = 0) -> Iterator[Trial]:
    """Yield the same trials for the same data, whatever the model."""
    draw = random.Random(seed)
    records = list(dataset.records)
    draw.shuffle(records)
    shown: dict[int, list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        for own in _classes(dataset, record):
            shown[own].append(place)
    entries, found = dataset.classes, 0
    for place, record in enumerate(records):
        own = _classes(dataset, record)
        things = [c for c in own if entries[c].is_thing and len(shown[c]) > 1]
        if not things:
            continue
        chosen = draw.choice(things)
        other = draw.choice([p for p in shown[chosen] if p != place])
        rest = [c for c in own if c != chosen]
        others = [c for c in range(len(entries)) if c not in own]
        words = (rest + draw.sample(others, len(others)))[:distractors]
        yield Trial(
            Path(record["file_name"]),
            _mask(dataset, record, chosen),
            entries[chosen].name,
            (Path(records[other]["file_name"]), _mask(dataset, records[other], chosen)),
            [entries[c].name for c in words],
        )
        found += 1
        if found == count:
            return


def _segments(dataset: Dataset, record: dict[str, Any]) -> np.ndarray:
    size = read_image(record["file_name"]).pixels.shape[:2]
    return dataset.read_segments(record, (size[0], size[1])).semantic()


def _classes(dataset: Dataset, record: dict[str, Any]) -> list[int]:
    values, counts = np.unique(_segments(dataset, record), return_counts=True)
    large = counts >= LEAST * counts.sum()
    return [int(value) for value in values[large] if 0 <= value < len(dataset.classes)]


def _mask(dataset: Dataset, record: dict[str, Any], chosen: int) -> np.ndarray:
    return _segments(dataset, record) == chosen


def overlap(segmenter: Any, trial: Trial, with_name: bool) -> float:
    """Return the IoU of the class of a trial with its true pixels."""
    listed = [trial.name, *trial.words] if with_name else trial.words
    classes = with_examples(Vocabulary.parse(listed), {trial.name: (trial.example[0], trial.example[1])})
    place = classes.names.index(trial.name)
    found = segmenter(trial.image, classes).labels == place
    return float((found & trial.wanted).sum() / max(1, (found | trial.wanted).sum()))


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; the result is 0, or 2 for a mistake in the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of Scenes")
    parser.add_argument("--splits", default="val,novel")
    parser.add_argument("--models", default="mini,mini-clearclip")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--distractors", type=int, default=12)
    parser.add_argument("--with-name", action="store_true", help="the class is known by its name, too")
    parser.add_argument("--json", type=Path, help="where the IoUs are written")
    args = parser.parse_args(arguments)
    rows = []
    try:
        for model in args.models.split(","):
            segmenter = ovseg.load(model)
            for split in args.splits.split(","):
                own = list(trials(read_folder(args.data / split), args.count, args.distractors))
                values = [overlap(segmenter, one, args.with_name) for one in own]
                share = sum(value >= FOUND for value in values) / len(values)
                print(
                    f"{model:20s} {split:8s} found {100 * share:.0f} % of {len(values)}, mean IoU {np.mean(values):.2f}"
                )
                rows.append({"model": model, "split": split, "found": share, "iou": values})
    except OvsegError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
