"""Every model once on a device: labels of an example photograph beside those of the CPU in float32."""

from __future__ import annotations

import time
import warnings
from functools import cache
from typing import Any

import torch
from benchmarks.stages import fill
from benchmarks.words import random_words, vocabulary_with_synonyms
from torch import Tensor

from gpu_checks.rows import DTYPES, Job, Row, Skipped, exact, found
from ovseg.checkpoint.loading import Weights
from ovseg.config import config_root, load_config
from ovseg.errors import DownloadError
from ovseg.recalibration import list_recalibrations
from ovseg.serve.service import examples, examples_root
from ovseg.zoo import load

LEAST = {"fp32": 0.998, "fp16": 0.97, "bf16": 0.90}
"""Share of the pixels whose label is that of the CPU in float32, on trained weights."""

SMALL_METHODS = ("sclip",)
FULL_SIZE = (
    "san/san-vit-b-16",
    "san/san-vit-large-14",
    "fcclip/fcclip-rn50",
    "fcclip/fcclip-convnext-l",
    "maft_plus/maftp-b",
)
SMALL_FULL_SIZE = ("san/san-vit-b-16",)


def run(job: Job) -> list[Row]:
    """Run those of the package in all precisions, and those of full size with random weights once."""
    known = [name.lower() for name in list_recalibrations()]
    methods = [name for name in known if not job.small or name in SMALL_METHODS]
    trained = ["mini", *(f"{method}/mini" for method in methods)]
    rows = []
    with exact(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in trained:
            dtypes = [dtype for dtype in DTYPES if not (job.small and dtype == "fp16")]  # slow on CPUs
            rows += [found(f"{name}, {dtype}", lambda n=name, d=dtype: check_trained(n, d, job)) for dtype in dtypes]
            rows_of.cache_clear()
        for name in SMALL_FULL_SIZE if job.small else FULL_SIZE:
            rows.append(found(f"{name}, random weights", lambda n=name: check_random(n, job)))
    return rows


@cache
def rows_of(name: str) -> Tensor:
    """Return the labels (H, W) of a model on the CPU in float32."""
    return labels_of(name, "cpu", "fp32")[0]


def labels_of(name: str, device: str, dtype: str) -> tuple[Tensor, float]:
    """Return the labels (H, W) of a photograph, and the seconds of the second call.

    Raises:
        Skipped: The model needs weights that are not on this machine.
    """
    photo, words = next(iter(examples().items()))
    try:
        segmenter = load(name, device=device, dtype=dtype)
    except DownloadError as error:
        raise Skipped(str(error)) from error
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        labels = segmenter(examples_root() / photo, words, want="labels").labels
        seconds = time.perf_counter() - start
    return torch.as_tensor(labels), seconds


def check_trained(name: str, dtype: str, job: Job) -> Row:
    """Compare the labels of a model of the package with those of the CPU."""
    wanted = rows_of(name)
    own, seconds = labels_of(name, str(job.device), dtype)
    same = (own == wanted).double().mean().item()
    status = "ok" if same >= LEAST[dtype] else "FAIL"
    remark = f"{same:.2%} of the labels as on the CPU in fp32, limit {LEAST[dtype]:.1%}"
    return Row(f"{name}, {dtype}", status, remark, {"labels %": 100 * same, "ms": 1000 * seconds})


def random_model(name: str) -> Any:
    """Build a model of full size with random weights, on the CPU; nothing is fetched."""
    from ovseg.meta_arch import ARCHITECTURES

    path = str(config_root() / f"{name}.yaml")
    kind = ARCHITECTURES.all()[load_config(path).MODEL.META_ARCHITECTURE]
    promise = {"clip.model.logit_scale": torch.zeros(())}  # weights that bring a CLIP along, so that none is fetched
    parts = kind.parts(load_config(path), Weights(promise, "random weights"))
    fill(parts["clip"])
    torch.manual_seed(0)
    model = kind(**{**parts, "weights": None})
    model.text_cache = None
    return model.eval()


def check_random(name: str, job: Job) -> Row:
    """A model of full size runs and gives labels of the size that was asked for; its scores are finite."""
    side = 224 if job.small else 640
    model = random_model(name)
    words = random_words(model, vocabulary_with_synonyms(20))
    model.place(job.device, torch.float32)
    image = torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(0)).byte()
    answer = model.answer(model.encode([image]), 0, (side // 2, side), words)
    assert answer.labels.shape == (side // 2, side), answer.labels.shape
    assert torch.as_tensor(answer.scores).isfinite().all()
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    return Row(f"{name}, random weights", remark=f"{parameters:.0f} million weights", numbers={"weights M": parameters})
