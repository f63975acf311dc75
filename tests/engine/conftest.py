"""What the tests of training share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.meta_arch.models import settings, shipped


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
