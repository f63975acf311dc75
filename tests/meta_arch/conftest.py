"""Models of the table, built once for all tests that leave them as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TINY_CLIP
from tests.meta_arch.colours import COLOURS
from tests.meta_arch.models import MODELS, WITHOUT_CLASS_TOKEN, Case


@pytest.fixture(scope="session")
def deeper_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny CLIP of four blocks, as many as the methods need whose first blocks run as they are."""
    from safetensors.torch import save_file

    from ovseg.clip.open_clip_internals import build_model

    config = json.loads(json.dumps(TINY_CLIP))
    config["model_cfg"]["vision_cfg"]["layers"] = 4
    generator = torch.Generator().manual_seed(9)
    state = {
        key: 0.3 * torch.randn(value.shape, generator=generator) + ("ln" in key and key.endswith("weight"))
        for key, value in build_model(config["model_cfg"], "tiny").state_dict().items()
    }
    state["logit_scale"] = torch.tensor(3.0)
    folder = tmp_path_factory.mktemp("deeper-clip")
    save_file(state, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def folders(deeper_clip: Path, tiny_convnext: Path, tiny_resnet: Path) -> dict[str, Path]:
    """The tiny CLIPs that models stand on, by kind."""
    return {"vit": deeper_clip, "convnext": tiny_convnext, "resnet": tiny_resnet}


@pytest.fixture(scope="session", params=(*MODELS, WITHOUT_CLASS_TOKEN, COLOURS), ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Each of the models, one on a tower that is none of ours, and one that is none of ours."""
    found: Case = request.param
    return found


@pytest.fixture(scope="session")
def model(case: Case, folders: dict[str, Path]) -> Any:
    """The model of `case`, for tests that leave it as it is."""
    return case.build(folders)


@pytest.fixture(scope="session", params=MODELS, ids=lambda case: case.name)
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
