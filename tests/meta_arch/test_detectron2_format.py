"""The border to Detectron2: built by its registry, fed by its mapper, judged by its evaluator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from PIL import Image

from ovseg.config import add_ovseg_config
from ovseg.segmenter import Segmenter
from tests.meta_arch import models
from tests.meta_arch.models import words

NAMES = ["cat", "sofa|couch", "window"]


@pytest.fixture(scope="module")
def model(tiny_clip):
    model = build_model(models.config("sclip", tiny_clip, protocol={"WINDOW": 48, "STRIDE": 24})).eval()
    return model.with_words(model.words(words(*NAMES)))


def test_the_registry_knows_the_architecture(model, tiny_clip):
    assert type(model.model) is META_ARCH_REGISTRY.get("TrainingFree")
    cfg = get_cfg()  # the way of a Detectron2 script, without load_config
    add_ovseg_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.CLIP.FOLDER", str(tiny_clip)])
    assert build_model(cfg).recalibration.name == "CLIP"


def test_the_evaluator_of_detectron2_takes_the_outputs(model, tmp_path):
    records = []
    rng = np.random.default_rng(0)
    for index, size in enumerate([(60, 80), (72, 50)]):
        files = tmp_path / f"{index}.png", tmp_path / f"{index}-truth.png"
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(files[0])
        labels = model([{"image": torch.from_numpy(np.array(Image.open(files[0]))).permute(2, 0, 1)}])[0]["labels"]
        Image.fromarray(labels.numpy().astype(np.uint8)).save(files[1])
        record = {"file_name": str(files[0]), "sem_seg_file_name": str(files[1]), "image_id": index}
        records.append({**record, "height": size[0], "width": size[1]})
    DatasetCatalog.register("border", lambda: records)
    MetadataCatalog.get("border").set(stuff_classes=["cat", "sofa", "window"], ignore_label=255)
    try:
        evaluator = SemSegEvaluator("border", distributed=False)
        evaluator.reset()
        for record in records:
            image = torch.from_numpy(np.array(Image.open(record["file_name"]))).permute(2, 0, 1)
            inputs = [{**record, "image": image}]
            evaluator.process(inputs, model(inputs))
        assert evaluator.evaluate()["sem_seg"]["pACC"] > 99.99
    finally:
        DatasetCatalog.remove("border")
        MetadataCatalog.remove("border")


def test_the_mapper_of_detectron2_shows_the_same_image_as_the_segmenter(tiny_clip, photo):
    cfg = models.config("clip", tiny_clip, protocol={"WINDOW": 0})
    segmenter = Segmenter(build_model(cfg), "plain", "cpu")
    expected = segmenter(photo, NAMES)
    record = DatasetMapper(cfg, is_train=False)({"file_name": str(photo), "height": 72, "width": 96})
    assert list(record["image"].shape[1:]) == expected.meta["network_size"]
    found = segmenter.model.with_words(segmenter.words(NAMES))([record])
    np.testing.assert_array_equal(found[0]["labels"].numpy(), expected.labels)
