"""What the tests of exports share: a tiny model with weights, and files of it that are written once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovseg.checkpoint.trained import save_trained, trained_state
from ovseg.export.plan import Plan
from ovseg.export.run import export
from tests.conftest import write_vit_clip
from tests.meta_arch.models import MODELS

CASES = {case.name: case for case in MODELS}
CLASSES = "cat|kitten, sofa, window"
LOUDER = {"CATSeg": "aggregator.embed.weight", "SED": "decoder.head.weight"}
"""Weights by which maps of words differ by more than rounding; as they are, random ones make all maps nearly alike."""


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_convnext: Path, tiny_resnet: Path) -> Callable[[str], Path]:
    """Return a function that writes the config of one of the tiny models, with weights of its head, and names it."""
    folder = tmp_path_factory.mktemp("models-to-export")
    clips = {"vit": write_vit_clip(folder / "clip", 4, seed=9), "convnext": tiny_convnext, "resnet": tiny_resnet}

    def write(name: str) -> Path:
        path, case, weights = folder / f"{name}.yaml", CASES[name], folder / f"{name}.safetensors"
        if not path.is_file():
            trained = dict(trained_state(case.build(clips)))
            if case.architecture in LOUDER:
                trained[LOUDER[case.architecture]] = 20 * trained[LOUDER[case.architecture]]
            if trained:
                save_trained(trained, weights)
            case.write_config(path, clips, weights if trained else "")
        return path

    return write


@pytest.fixture(scope="session")
def exported(make: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that exports one of the tiny models, each file once."""
    pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    folder, done = tmp_path_factory.mktemp("exported"), dict[Any, Path]()

    def give(model: str, name: str, classes: str | None = None, **options: Any) -> Path:
        key = (name, model, classes, *sorted(options.items()))
        if key not in done:
            export(str(make(model)), Plan(folder / name, **options), classes, report=lambda _: None)
            done[key] = folder / name
        return done[key]

    return give


@pytest.fixture(scope="session")
def san(exported: Callable[..., Path]) -> Path:
    """SAN as ONNX, with everything inside."""
    return exported("san", "san.onnx", CLASSES, height=64, width=96, photo=True, labels=True)
