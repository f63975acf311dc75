"""Models of the table, built once for all tests that leave them as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import write_vit_clip
from tests.meta_arch.colours import COLOURS
from tests.meta_arch.models import MODELS, WITHOUT_CLASS_TOKEN, Case
from tests.meta_arch.sam3.tiny import write_config


@pytest.fixture(scope="session")
def deeper_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny CLIP of four blocks, as many as the methods need whose first blocks run as they are."""
    return write_vit_clip(tmp_path_factory.mktemp("models") / "deeper-clip", 4, seed=9)


@pytest.fixture(scope="session")
def tiny_sam3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the config of a tiny SAM 3."""
    return write_config(tmp_path_factory.mktemp("models") / "sam3")


@pytest.fixture(scope="session")
def folders(deeper_clip: Path, tiny_convnext: Path, tiny_resnet: Path, tiny_sam3: Path) -> dict[str, Path]:
    """The tiny CLIPs that models stand on, by kind; of SAM 3, which stands on none, a config."""
    return {"vit": deeper_clip, "convnext": tiny_convnext, "resnet": tiny_resnet, "sam3": tiny_sam3}


def marked(*cases: Case) -> list[Any]:
    """Return cases as parameters, those that are slow marked so."""
    return [pytest.param(one, id=one.name, marks=[pytest.mark.slow] if one.slow else []) for one in cases]


@pytest.fixture(scope="session", params=marked(*MODELS, WITHOUT_CLASS_TOKEN, COLOURS))
def case(request: pytest.FixtureRequest) -> Case:
    """Each of the models, one on a tower that is none of ours, and one that is none of ours."""
    found: Case = request.param
    return found


@pytest.fixture(scope="session")
def model(case: Case, folders: dict[str, Path]) -> Any:
    """The model of `case`, for tests that leave it as it is."""
    return case.build(folders)


@pytest.fixture(scope="session", params=marked(*MODELS))
def ours(request: pytest.FixtureRequest) -> Case:
    """Each of the models."""
    found: Case = request.param
    return found


@pytest.fixture(scope="session")
def built(ours: Case, folders: dict[str, Path]) -> Any:
    """The model of `ours`, for tests that leave it as it is."""
    return ours.build(folders)


@pytest.fixture
def fresh(ours: Case, folders: dict[str, Path]) -> Iterator[Any]:
    """The model of `ours`, for a test that changes it."""
    yield ours.build(folders)
    torch.compiler.reset()
