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

import ovseg
import ovseg.meta_arch
from ovseg.config import add_ovseg_config, config_root, load_config
from ovseg.errors import ConfigError
from ovseg.vocabulary import Vocabulary

NAMES = ["cat", "sofa|couch", "window"]


def config(folder, **protocol):
    changes = {
        "MODEL": {"DEVICE": "cpu", "CLIP": {"FOLDER": str(folder)}, "TEXT": {"TEMPLATES": "simple"}},
    }
    changes["MODEL"]["PROTOCOL"] = {"SHORT_SIDE": 64, "WINDOW": 48, "STRIDE": 24, **protocol}
    return load_config(config_root() / "training_free/sclip.yaml", changes)


@pytest.fixture(scope="module")
def model(tiny_clip):
    model = build_model(config(tiny_clip)).eval()
    model.set_vocabulary(Vocabulary.parse(NAMES))
    return model


def test_the_registry_knows_the_architecture(model, tiny_clip):
    assert type(model) is META_ARCH_REGISTRY.get("TrainingFree")
    cfg = get_cfg()  # the way of a Detectron2 script, without load_config
    add_ovseg_config(cfg)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.CLIP.FOLDER", str(tiny_clip)])
    assert build_model(cfg).recalibration.name == "CLIP"


@pytest.mark.parametrize(
    "protocol",
    [
        {},
        {"PAMR_STEPS": 2},
        {"PAMR_STEPS": 2, "PAMR_AT": "network"},
        {"WINDOW": 0, "PADDING": "even"},
        {"MIN_MAX": True},
    ],
)
def test_outputs(tiny_clip, protocol):
    model = build_model(config(tiny_clip, **protocol)).eval()
    model.set_vocabulary(Vocabulary.parse(NAMES), "words")
    inputs = [
        {"image": torch.randint(0, 256, (3, 64, 85), dtype=torch.uint8), "height": 100, "width": 133},
        {"image": torch.randint(0, 256, (3, 70, 64), dtype=torch.uint8)},
        {"image": torch.rand(3, 64, 85) * 255, "height": 31, "width": 40},
    ]
    outputs = model(inputs)
    assert len(outputs) == 3
    for output, size in zip(outputs, [(100, 133), (70, 64), (31, 40)], strict=True):
        labels, scores = output["labels"], output["sem_seg"]
        assert labels.shape == size and labels.dtype == torch.int32
        assert scores.shape == (3, *size) and scores.dtype == torch.float32
        assert scores.is_inference() and not scores.requires_grad
        own = labels >= 0
        assert own.any()
        assert (scores.argmax(0)[own] == labels[own]).float().mean() > 0.9999
        torch.testing.assert_close(scores.amax(0)[own], output["scores"][own], atol=1e-5, rtol=1e-5)


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
    segmenter = ovseg.load(tiny_clip, "cpu", overrides={"MODEL": {"PROTOCOL": {"SHORT_SIDE": 64, "WINDOW": 0}}})
    expected = segmenter(photo, NAMES, templates="simple")
    mapper = DatasetMapper(
        load_config(config_root() / "training_free/clip.yaml", {"MODEL": {"PROTOCOL": {"SHORT_SIDE": 64}}}),
        is_train=False,
    )
    record = mapper({"file_name": str(photo), "height": 72, "width": 96})
    assert list(record["image"].shape[1:]) == expected.meta["network_size"]
    np.testing.assert_array_equal(segmenter.model([record])[0]["labels"].numpy(), expected.labels)


def test_classes_are_no_part_of_the_weights(model):
    before = {key: value.shape for key, value in model.state_dict().items()}
    model.set_vocabulary(Vocabulary.parse([f"class {i}" for i in range(7)]), templates="simple")
    assert {key: value.shape for key, value in model.state_dict().items()} == before
    assert model([{"image": torch.zeros(3, 64, 64)}])[0]["sem_seg"].shape == (7, 64, 64)
    model.set_vocabulary(Vocabulary.parse(NAMES))


def test_without_a_vocabulary(tiny_clip):
    with pytest.raises(ConfigError, match=r"call model\.set_vocabulary"):
        build_model(config(tiny_clip))([{"image": torch.zeros(3, 64, 64)}])


def test_the_threshold_of_a_policy_and_of_the_protocol(tiny_clip):
    image = [{"image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)}]
    model = build_model(config(tiny_clip, PROB_THRESHOLD=1.0, THRESHOLD_LABEL=0)).eval()
    model.set_vocabulary(Vocabulary.parse(NAMES))
    assert (model(image)[0]["labels"] == 0).all()  # as the benchmarks count: under the threshold is background
    model.set_vocabulary(Vocabulary.parse(NAMES), "threshold:1")
    assert (model(image)[0]["labels"] == -1).all()
