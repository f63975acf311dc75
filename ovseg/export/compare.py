"""Whether a file says what the model says: on three photographs, each by other words, through every way it is used."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovseg.contract import Words
from ovseg.data.images import read_image
from ovseg.errors import WeightsError
from ovseg.export.graphs import Model
from ovseg.labelling.known import seen_columns
from ovseg.meta_arch.exported.card import CLASSES, IMAGE, TEXTS, TRAINED, FileCard
from ovseg.meta_arch.exported.model import ExportedModel
from ovseg.meta_arch.exported.runtimes import TorchFile, open_runtime
from ovseg.vocabulary import Vocabulary

LabelsOf = Callable[[Tensor, Words], Tensor]

AGREE = {"fp32": 0.999, "fp16": 0.99, "int8": 0.9}
"""So large a share of labels must be the same on every photograph, by the precision of a file."""
PHOTOS = ("beach.jpg", "desk.jpg", "street.jpg")
WORDS = (
    ("sky, sand", "none"),
    ("keyboard, cup|mug, plant|flower pot|leaf, laptop computer", "wall, table"),
    ("car, person|man|woman, tree, road, building, window, sky, bicycle, dog, traffic light, sign, door", "words"),
)
"""Of each photograph the classes and the background: a few, some with other names, and many."""
_LONGEST = 640  # of a photograph that is compared, in pixels


@dataclass(frozen=True)
class Comparison:
    """What came of one photograph.

    Attributes:
        photo: Its name.
        size: Height and width in pixels.
        words: How many texts were given.
        agreement: Share of equal labels, of the worst way: by ovseg, or by the graph alone.
        difference: The largest one of the scores of a pixel, by ovseg.
        torch_seconds, file_seconds: From pixels to labels.
    """

    photo: str
    size: tuple[int, int]
    words: int
    agreement: float
    difference: float
    torch_seconds: float
    file_seconds: float

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.photo} {self.size[1]} x {self.size[0]}, {self.words} texts: {100 * self.agreement:.3f} % of the "
            f"labels agree, largest difference of scores {self.difference:.1e}, {self.torch_seconds:.2f} s in PyTorch, "
            f"{self.file_seconds:.2f} s from the file"
        )


def photos(folder: Path, several: bool) -> list[tuple[str, np.ndarray]]:
    """Return the photographs (H, W, 3) uint8 by name; upright, wide and as they are where a file takes several sizes.

    Raises:
        WeightsError: They are not installed.
    """
    found = []
    for index, name in enumerate(PHOTOS):
        if not (folder / name).is_file():
            raise WeightsError(f"'{folder / name}' is missing, by which files are compared; install ovseg anew")
        pixels = read_image(folder / name).pixels
        step = -(-max(pixels.shape[:2]) // _LONGEST)
        pixels = np.ascontiguousarray(pixels[::step, ::step])
        high, wide = pixels.shape[:2]
        if several and index:
            pixels = pixels[:, : wide // 2] if index == 1 else pixels[: high * 2 // 3]
        found.append((name, np.ascontiguousarray(pixels)))
    return found


def compare(model: Model, path: Path, card: FileCard, folder: Path, report: Callable[[str], None]) -> list[Comparison]:
    """Compare a file with the model that it was made of, and refuse one that says something else.

    Args:
        model: On the CPU in float32, with the size rule of the file.
        path: The file.
        card: Its card.
        folder: Of the photographs.
        report: Is told of each.

    Raises:
        WeightsError: Too few labels agree on a photograph.
    """
    plain = replace(card, calibration=None)
    runtime = open_runtime(path, plain)
    file = ExportedModel(path, plain, runtime, "", lambda: model.clip, model.text)
    labels_of = labels_inside(path, card) if card.labels else None
    calibration, model.calibration = model.calibration, None
    try:
        found = []
        given = zip(photos(folder, card.size is None or card.photo), WORDS, strict=True)
        for (name, pixels), (classes, background) in given:
            words = model.words(Vocabulary.parse(classes), background)
            one = _one(model, file, labels_of, name, pixels, words)
            report(f"{one}".replace("from the file", f"in {runtime.name}"))
            found.append(one)
    finally:
        model.calibration = calibration
    return check(found, card.dtype)


def check(found: list[Comparison], dtype: str) -> list[Comparison]:
    """Refuse a file by what came of its photographs.

    Raises:
        WeightsError: Too few labels agree on one.
    """
    worst, least = min(one.agreement for one in found), AGREE[dtype]
    if not worst >= least:
        raise WeightsError(
            f"only {100 * worst:.3f} % of the labels of a photograph agree with PyTorch, expected {100 * least:.1f} % "
            f"for {dtype}; no file was left: export with another --dtype or --format"
        )
    return found


def _one(
    model: Model, file: ExportedModel, labels_of: LabelsOf | None, name: str, pixels: np.ndarray, words: Words
) -> Comparison:
    """Compare one photograph; where labels come out of the graph, they are those of its input, and compared too."""
    size = (pixels.shape[0], pixels.shape[1])
    start = time.perf_counter()
    expected = model.answer(model.encode([model.size_rule(pixels)]), 0, size, words)
    middle = time.perf_counter()
    found = file.answer(file.encode([file.size_rule(pixels)]), 0, size, words)
    end = time.perf_counter()
    agreement = _same(found.labels, expected.labels)
    if labels_of is not None:
        inside = expected
        given = torch.from_numpy(pixels)
        if not file.card.photo:
            seen = model.size_rule(pixels)
            given = file.fitted(seen.float())[None]
            seen = seen[:, : given.shape[2], : given.shape[3]]  # a graph knows nothing of what is no whole patch
            inside = model.answer(model.encode([seen]), 0, (seen.shape[1], seen.shape[2]), words)
        own = labels_of(given, words)[: inside.labels.shape[0], : inside.labels.shape[1]]
        agreement = min(agreement, _same(own, inside.labels))
    difference = float((found.scores.float() - expected.scores.float()).abs().max())
    return Comparison(name, size, len(words.embeddings), agreement, difference, middle - start, end - middle)


def _same(found: Tensor, expected: Tensor) -> float:
    return float((found.int() == expected.int()).float().mean())


def labels_inside(path: Path, card: FileCard) -> LabelsOf:
    """Return what runs the whole graph, as other programs do, and gives its labels (H, W)."""
    place = card.outputs.index("labels")

    def given(image: Tensor, words: Words) -> dict[str, Tensor]:
        found = {IMAGE: image, TEXTS: words.embeddings, CLASSES: words.query_to_class}
        if card.trained_names is not None:
            found[TRAINED] = seen_columns(words, card.trained_names)[words.columns]
        return found

    if card.format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def of_onnx(image: Tensor, words: Words) -> Tensor:
            fed = {name: value.numpy() for name, value in given(image, words).items()}
            return torch.from_numpy(session.run(["labels"], fed)[0])

        return of_onnx
    runtime = TorchFile(path, card)
    return lambda image, words: runtime.run(*given(image, words).values())[place]
