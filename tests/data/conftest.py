"""What the tests of data share."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def write_coco():
    """A function that turns a folder of `own_data` into one with a COCO JSON file."""

    def write_coco(folder, annotations=None, categories=None):
        data = {
            "images": [{"id": 7, "file_name": "00.jpg", "height": 40, "width": 48}],
            "categories": categories or [{"id": 3, "name": "glorp"}, {"id": 9, "name": "blix", "supercategory": "x"}],
            "annotations": annotations
            or [
                {
                    "id": 1,
                    "image_id": 7,
                    "category_id": 9,
                    "iscrowd": 0,
                    "segmentation": [[0, 0, 30, 0, 30, 20, 0, 20]],
                },
                {"id": 2, "image_id": 7, "category_id": 3, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]},
                {
                    "id": 3,
                    "image_id": 7,
                    "category_id": 3,
                    "iscrowd": 1,
                    "segmentation": {"size": [40, 48], "counts": [40 * 47, 40]},
                },
            ],
        }
        (folder / "annotations.json").write_text(json.dumps(data))
        (folder / "classes.txt").unlink(missing_ok=True)

    return write_coco
