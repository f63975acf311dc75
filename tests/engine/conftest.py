"""What the tests of training share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ovseg.engine import run
from ovseg.engine.trainer import Trainer
from tests.meta_arch.models import settings, shipped


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of the log of a run."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def curve(folder: Path) -> list[float]:
    """Return the losses of a run."""
    return [row["loss"] for row in rows(folder) if "loss" in row]


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End a run in the middle of a step, as a kill does: without any farewell."""
    real = Trainer.run_step

    def run_step(self: Trainer) -> None:
        if self.iter == step:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(Trainer, "run_step", run_step)


@pytest.fixture
def train(training_config: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train with changes to the solver; returns the folder of the run."""

    def start(
        name: str = "run",
        resume: bool = False,
        changes: dict[str, Any] | None = None,
        config: Path = training_config,
        adopt: bool = False,
        skip_broken: bool = False,
        **solver: Any,
    ) -> Path:
        folder = tmp_path / name
        whole = {"OUTPUT_DIR": str(folder), "SOLVER": solver, **(changes or {})}
        run.train(str(config), whole, resume, adopt, skip_broken)
        return folder

    return start


@pytest.fixture
def panoptic_data(own_data: Path) -> Path:
    """The photographs of `own_data` with panoptic ground truth; the second class is stuff, around the first."""
    images, annotations = [], []
    (own_data / "panoptic").mkdir()
    for number, path in enumerate(sorted((own_data / "labels").iterdir())):
        segments = np.where(np.asarray(Image.open(path)) == 0, 1, 2).astype(np.uint8)
        Image.fromarray(np.stack([segments, 0 * segments, 0 * segments], -1)).save(own_data / "panoptic" / path.name)
        images.append({"id": number, "file_name": f"{path.stem}.jpg", "height": 40, "width": 48})
        infos = [{"id": 1, "category_id": 1, "iscrowd": 0}, {"id": 2, "category_id": 2, "iscrowd": 0}]
        annotations.append({"image_id": number, "file_name": path.name, "segments_info": infos})
    categories = [{"id": 1, "name": "glorp", "isthing": 1}, {"id": 2, "name": "blix", "isthing": 0}]
    data = {"images": images, "annotations": annotations, "categories": categories}
    (own_data / "panoptic.json").write_text(json.dumps(data), encoding="utf-8")
    (own_data / "classes.txt").unlink()
    return own_data


@pytest.fixture
def panoptic_config(tmp_path: Path, tiny_convnext: Path, panoptic_data: Path) -> Path:
    """A config that trains a tiny FC-CLIP on `panoptic_data` into ``run`` beside it, and evaluates it there, too."""
    path = tmp_path / "panoptic.yaml"
    whole = {
        "_BASE_": str(shipped("fcclip")),
        "VERSION": 2,
        **settings("fcclip", tiny_convnext, TRAINED_VOCABULARY=""),
        "DATASETS": {"TRAIN": [str(panoptic_data)], "TEST": [str(panoptic_data)], "VOCABULARY": ""},
        "INPUT": {"IMAGE_SIZE": 64},
        "DATALOADER": {"NUM_WORKERS": 0},
        "SOLVER": {"BASE_LR": 0.003, "MAX_ITER": 20, "IMS_PER_BATCH": 2},
        "OUTPUT_DIR": str(tmp_path / "run"),
    }
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    return path
