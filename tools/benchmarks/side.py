"""One side of a comparison of two versions: loads a model and calls it, as lines on standard input say.

It runs with a checkout of its own on the path, perhaps an older one, so it takes nothing from this folder. It knows
two ways to call a model: today's, and that of versions whose models kept the words (until 2026-11-22).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

MIB = 2**20
SMALL = 64  # pixels of the first image
WANTS = {"labels": {"labels"}, "panoptic": {"labels", "panoptic"}, "everything": None}
"""What is wanted of a model; None for all that it gives."""


class Side:
    """A loaded model and what is asked of it."""

    def __init__(self, configs: list[str], weights: str, image: str, dtype: str) -> None:
        """Load the model of the first config that this version has, with weights from a file."""
        from ovseg.ops.library import load_kernels

        self.segmenter = load(configs, weights, dtype)
        self.model, self.image = self.segmenter.model, torch.load(image)
        self.kept = hasattr(self.model, "set_vocabulary")
        self.words: Any = None
        self.kernels = load_kernels() is not None

    def prepare(self, classes: int) -> dict[str, Any]:
        """Take so many words, of one to four names each, and run a small image."""
        if self.kept:
            self.model.set_vocabulary(vocabulary(classes), templates="none")
        else:
            self.words = self.model.words(vocabulary(classes), templates="none")
        self.answer(self.image[:, :SMALL, :SMALL].contiguous(), "everything")
        return {"kernels": self.kernels, "dtype": str(self.segmenter.dtype), "threads": torch.get_num_threads()}

    def answer(self, image: Tensor, want: str) -> dict[str, Any]:
        """Answer one image of the size of the result; returns labels and, where they are wanted, segments."""
        size = (image.shape[1], image.shape[2])
        if self.kept:
            self.model.full_scores = want == "everything"
            found = self.model([{"image": image, "height": size[0], "width": size[1]}])[0]
            segments = found["panoptic_seg"][0] if "panoptic_seg" in found else None
            return {"labels": found["labels"], "segments": segments}
        from ovseg.contract import check_want

        gives = self.model.gives
        wanted = gives if WANTS[want] is None else check_want(sorted(WANTS[want]), gives, "model")
        answer = self.model.answer(self.model.encode([image]), 0, size, self.words, wanted)
        return {"labels": answer.labels, "segments": None if answer.panoptic is None else answer.panoptic.ids}

    def call(self, want: str, keep: str = "") -> dict[str, Any]:
        """Answer the image; returns seconds by the clock and of the processor, and keeps the result in a file."""
        start, used = time.perf_counter(), time.process_time()
        found = self.answer(self.image, want)
        taken = {"seconds": time.perf_counter() - start, "processor": time.process_time() - used}
        if keep:
            np.savez(keep, **{name: np.asarray(value) for name, value in found.items() if value is not None})
        return taken

    def weigh(self, want: str) -> dict[str, Any]:
        """Return the peak memory of a call above the level before it, in MiB."""
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _held("VmRSS")
        self.answer(self.image, want)
        return {"memory": (_held("VmHWM") - before) / MIB}


def load(configs: list[str], weights: str, dtype: str) -> Any:
    """Load a model whose texts are embedded at random, a text always alike."""
    from ovseg import zoo
    from ovseg.config import config_root

    config = next(path for name in configs if (path := config_root() / name).is_file())
    segmenter: Any = zoo.load(str(config), device="cpu", dtype=dtype, overrides={"MODEL": {"WEIGHTS": weights}})
    dim = segmenter.model.clip.embed_dim

    def text(texts: list[str]) -> Tensor:
        seeds = (zlib.crc32(text.encode()) for text in texts)
        return torch.stack([torch.randn(dim, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    segmenter.model.clip.text = text
    return segmenter


def vocabulary(classes: int) -> Any:
    """Return so many classes of one to four names each."""
    from ovseg.vocabulary import Vocabulary

    names = [[f"thing {i}", *(f"thing {i} by name {j}" for j in range(i % 4))] for i in range(classes)]
    return Vocabulary.parse(["|".join(own) for own in names])


def decide(configs: list[str], weights: str, image: str, classes: int) -> dict[str, Any]:
    """Measure what bf16 changes on the image and keep it for ``auto``, as ``ovseg doctor --dtype`` does."""
    from ovseg.jobs.dtype_check import measure
    from ovseg.system.precision import store

    pixels = torch.load(image).permute(1, 2, 0).numpy()
    found = measure(lambda dtype: load(configs, weights, dtype), [pixels], vocabulary(classes)).whole
    store(found)
    return {"decision": found.decision}


def _held(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{what}:"))


def main() -> None:
    """Do what lines say, ``{"do": name, ...}``, and answer each by a line; what libraries print is not among these."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    side: Any = None
    for line in sys.stdin:
        order = json.loads(line)
        name = order.pop("do")
        try:
            if name == "load":
                side, found = Side(**order), {}
            elif name == "decide":
                found = decide(**order)
            else:
                found = getattr(side, name)(**order)
        except Exception as error:  # the other process says what of it a user should know
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
