"""What a file of `ovseg export` says of itself: the model that it was, its words, and what goes in and comes out."""

from __future__ import annotations

import base64
import json
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovseg.contract import Words
from ovseg.data.preprocessing import SizeRule
from ovseg.errors import EnvironmentProblem, WeightsError
from ovseg.meta_arch.counted import ALL
from ovseg.system.values import dump
from ovseg.vocabulary import Vocabulary, parse_background

KEY = "ovseg"
"""Of the metadata of an ONNX file that hold the card."""
ENTRY, NAMING = "ovseg/card.json", "ovseg/naming.pt2"
"""Of a .pt2, a zip file, below its one folder: the card, and the program that names what the network has seen."""
IMAGE, TEXTS, CLASSES, TRAINED = "image", "text_embeddings", "query_to_class", "trained"
"""Names of the inputs; the last one is there where a model asks which words its head was trained on."""
_VERSION = 1


@dataclass(frozen=True)
class FixedSize(SizeRule):
    """Resizes all photographs to one size, whatever their aspect: that of a file that knows no other."""

    height: int = 1
    width: int = 1

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return the one size."""
        return self.height, self.width

    @classmethod
    def of(cls, height: int, width: int) -> FixedSize:
        """Return the rule of a size in pixels."""
        return cls(min(height, width), max(height, width), height=height, width=width)


@dataclass(frozen=True)
class FileCard:
    """What a file says of itself.

    Attributes:
        ovseg: Version that wrote it.
        model: Name by which the model was loaded; by it its text tower is found again.
        kind: ``patches`` (training-free), ``masks``, or ``maps`` (a map for every word).
        format: ``onnx``, ``torch-export`` or ``aoti``.
        dtype: ``fp32``, ``fp16`` or ``int8``.
        size: The one size (height, width) in pixels; None where it takes several.
        unit: Sides are multiples of so many pixels, where it takes several.
        least: The shortest side, there.
        photo: Whether images are photographs (H, W, 3) uint8 of any size, resized inside, and not (1, 3, h, w) float32.
        seen: Names of the outputs that know no words.
        named: Names of those that words give.
        labels: Whether labels and scores of every pixel come out, too.
        weights_hash: Of the model.
        clip: Name of its CLIP.
        clip_hash: Of its CLIP, whose text tower embeds the words.
        config: Of the model, nested.
        settings: Those of the model.
        mean, std: Of RGB in 0..1, by which the graph normalises images.
        patch_size: In pixels; of masks what images are padded to multiples of.
        gives: What can be wanted.
        templates, background: Those of the model.
        notes: What every result says of the model.
        clip_notes: Likewise, of its CLIP.
        calibration: What its scores are worth; None where that is not known.
        trained_names: Words that the head was trained on; None where the model does not ask.
        words: Words that were embedded when it was written, see `pack_words`; None where there are none.
        version: Of this form.
        prompts: Templates that texts are given in, each by itself; 0 where a text is one row.
        names: Of models that make maps: which names of a class count; see `ovseg.meta_arch.counted`.
        most: Of these: a view is compared with so many words; 0 for all.
        sliding: Of these: side of the square, side of a window and overlap of `ovseg.labelling.sliding.Sliding`, whose
            views go into the graph one by one; None where an image goes in as a whole.
        view: The size (height, width) of such a view there.
        cut: Of these: why a word may have no map.
    """

    ovseg: str
    model: str
    kind: str
    format: str
    dtype: str
    size: tuple[int, int] | None
    unit: int
    least: int
    photo: bool
    seen: tuple[str, ...]
    named: tuple[str, ...]
    labels: bool
    weights_hash: str
    clip: str
    clip_hash: str
    config: dict[str, Any]
    settings: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_size: int
    gives: tuple[str, ...]
    templates: str
    background: str
    notes: tuple[str, ...]
    clip_notes: tuple[str, ...]
    calibration: dict[str, Any] | None
    trained_names: tuple[str, ...] | None
    words: dict[str, Any] | None
    version: int = _VERSION
    prompts: int = 0
    names: str = ALL
    most: int = 0
    sliding: tuple[int, int, float] | None = None
    view: tuple[int, int] | None = None
    cut: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""
        return (IMAGE, TEXTS, CLASSES) if self.trained_names is None else (IMAGE, TEXTS, CLASSES, TRAINED)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in their order."""
        return (*self.seen, *self.named, *(("labels", "scores") if self.labels else ()))

    def dump(self) -> str:
        """Return it as JSON."""
        return dump(asdict(self))

    @classmethod
    def read(cls, path: Path) -> FileCard:
        """Read the card of a file.

        Raises:
            WeightsError: There is no such file, it is damaged, or `ovseg export` of this version did not write it.
            EnvironmentProblem: It is an ONNX file, and the package onnx is missing.
        """
        if not path.is_file():
            raise WeightsError(f"'{path}' does not exist; check the path, or write it by `ovseg export`")
        text = _of_onnx(path) if path.suffix == ".onnx" else _of_archive(path)
        try:
            found = json.loads(text)
            if found.get("version") != _VERSION:
                raise WeightsError(
                    f"'{path}' has the form {found.get('version')} of `ovseg export`, this version reads {_VERSION}; "
                    "export the model anew"
                )
            known = {field.name for field in fields(cls)}
            tuples = {key: tuple(value) for key, value in found.items() if isinstance(value, list)}
            return cls(**{key: value for key, value in {**found, **tuples}.items() if key in known})
        except (ValueError, TypeError, AttributeError) as error:
            raise WeightsError(f"the card in '{path}' cannot be read ({error}); export the model anew") from error


def load_onnx(path: Path) -> Any:
    """Read an ONNX file.

    Raises:
        WeightsError: It is none, or cut short.
        EnvironmentProblem: The package onnx is missing.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise EnvironmentProblem(f"{error}, which reads '{path}'; pip install 'ovseg[export]'") from error
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own, which differ from version to version
        raise WeightsError(
            f"'{path}' is no ONNX file, or one that ends too early; copy it anew, or write it by `ovseg export`"
        ) from error


def _of_onnx(path: Path) -> str:
    found = {entry.key: entry.value for entry in load_onnx(path).metadata_props}
    if KEY not in found:
        raise WeightsError(f"'{path}' is an ONNX file, but none of `ovseg export`; export a model by it")
    return str(found[KEY])


def entry_of(archive: zipfile.ZipFile, name: str) -> str:
    """Return what `ENTRY` or `NAMING` is called in a .pt2: below the folder that PyTorch puts everything into."""
    return f"{archive.namelist()[0].partition('/')[0]}/{name}"


def _of_archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            if not archive.namelist() or entry_of(archive, ENTRY) not in archive.namelist():
                raise WeightsError(
                    f"'{path}' is an archive, but none of `ovseg export`, or ends too early; copy it anew, or export "
                    "a model"
                )
            return archive.read(entry_of(archive, ENTRY)).decode()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise WeightsError(
            f"'{path}' is no .pt2 file, or one that ends too early; copy it anew, or write it by `ovseg export`"
        ) from error


def pack_words(words: Words) -> dict[str, Any]:
    """Return embedded words as JSON values; embeddings (T, D) are float32, little-endian, row by row, in base64."""
    rows = words.embeddings.float().cpu().numpy().astype("<f4")
    return {
        "vocabulary": words.vocabulary.to_json(),
        "background": words.background.policy,
        "templates": words.templates,
        "texts": list(words.texts),
        "notes": list(words.notes),
        "query_to_class": words.query_to_class.tolist(),
        "shape": list(rows.shape),
        "embeddings": base64.b64encode(rows.tobytes()).decode(),
    }


def unpack_words(packed: dict[str, Any], embedded_by: str) -> Words:
    """Return the words that `pack_words` packed."""
    rows = np.frombuffer(base64.b64decode(packed["embeddings"]), "<f4").reshape(packed["shape"])
    return Words(
        embeddings=torch.from_numpy(rows.astype(np.float32)),
        query_to_class=torch.tensor(packed["query_to_class"], dtype=torch.int64),
        texts=tuple(packed["texts"]),
        notes=tuple(packed["notes"]),
        vocabulary=Vocabulary.parse(packed["vocabulary"]),
        background=parse_background(packed["background"]),
        templates=packed["templates"],
        embedded_by=embedded_by,
    )


def mean_colour(card: FileCard) -> Tensor:
    """Return the colour (3, 1, 1) float32 in 0..255 that the graph of a model with masks turns into zeros."""
    return torch.tensor([255 * value for value in card.mean], dtype=torch.float32).view(3, 1, 1)
