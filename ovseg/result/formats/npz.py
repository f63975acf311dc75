"""Everything that makes a result, in one file that brings it back bit for bit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.errors import InputError
from ovseg.result.formats.base import Format
from ovseg.result.objects import from_json, to_json
from ovseg.result.parts import Result
from ovseg.system.values import dump, plain
from ovseg.vocabulary import Vocabulary


class Npz(Format):
    """Labels, scores, photograph, segments, objects and meta data."""

    name = "npz"
    ending = ".npz"
    summary = "all of a result, for Segmentation.load"

    def write(self, result: Result, path: Path) -> None:
        """Write a compressed npz: the arrays by their names, and ``header``, which is JSON as bytes.

        Raises:
            InputError: The meta data has no JSON form.
        """
        parts = to_json(result.panoptic, result.instances)
        colors = [entry.color for entry in result.classes]
        header = {"classes": result.classes.to_json(), "colors": colors, "meta": plain(result.meta), **parts}
        packed = np.frombuffer(dump(header).encode(), dtype=np.uint8)
        arrays: dict[str, Any] = {
            "labels": result.labels,
            "scores": result.scores,
            "image": result.image,
            "header": packed,
        }
        if result.panoptic is not None:
            arrays["ids"] = result.panoptic.ids
        if result.class_scores is not None:
            arrays["class_scores"] = result.class_scores
        with path.open("wb") as file:  # savez would add a suffix to a path
            np.savez_compressed(file, **arrays)


def read_archive(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an npz back as the arguments of `Segmentation.from_labels`.

    Raises:
        InputError: The file is missing, damaged, or of another origin.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in ("labels", "scores", "image", "header")}
            ids, every = (stored[key] if key in stored else None for key in ("ids", "class_scores"))
        header = json.loads(arrays.pop("header").tobytes())
        words = Vocabulary.parse(header["classes"])
        if "colors" in header:  # files of earlier versions have none
            pairs = zip(words, header["colors"], strict=True)
            words = Vocabulary(tuple(replace(entry, color=tuple(color)) for entry, color in pairs))
        parts = {**from_json(header, ids), "class_scores": every}
        return {**arrays, "vocabulary": words, "meta": header["meta"], **parts}
    except FileNotFoundError as error:
        raise InputError(f"result '{path}' not found; expected a file of save('x.npz')") from error
    except Exception as error:  # a damaged archive shows itself in many ways: BadZipFile, zlib.error, KeyError, ...
        raise InputError(f"result '{path}' is damaged or foreign; expected a file of save('x.npz')") from error
